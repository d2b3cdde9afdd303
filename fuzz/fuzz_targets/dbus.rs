#![no_main]
corten_fuzz::fuzz!("dbus");

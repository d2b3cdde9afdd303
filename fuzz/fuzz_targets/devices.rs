#![no_main]
corten_fuzz::fuzz!("devices");

//! The interface of tests, benches and `fuzz/` to the library, which is otherwise private to the executable. Each
//! module has the items of the module with the same name that they use.

pub mod fuzzing;

pub mod cgroups {
    pub use crate::cgroups::{
        Cgroup, CgroupRecord, Directory, Host, Manager, Plan, Request, Write, attach_filter, create,
        delegate, frozen, plan, remove_parents,
    };
    pub mod devices {
        pub use crate::cgroups::devices::{Filter, Rule, Type, plan};
    }
}
pub mod cli {
    pub mod table {
        pub use crate::cli::table::{GLOBALS, Operands, Opt, Takes, Verb};
    }
}
pub mod commands {
    pub use crate::commands::VERBS;
}
pub mod config {
    pub use crate::config::{Config, Version, load, parse, parse_process, parse_resources};
}
pub mod criu {
    pub mod message {
        pub use crate::criu::message::{
            CgroupsMode, ExternalMount, Features, InheritFd, JoinNamespace, NetworkLock, Notify, Options,
            PageServer, Request, Response, Restored, Type, Version,
        };
    }
}
pub mod dbus {
    pub use crate::dbus::addresses;
}
pub mod error {
    pub use crate::error::{Kind, Notes, Result, kind};
}
pub mod hooks {
    pub use crate::hooks::{Hook, run, run_all};
}
pub mod host {
    pub use crate::host::{Host, procfs};
}
pub mod plan {
    pub use crate::plan::{Request, create};
}
pub mod process {
    pub use crate::process::{Host, plan};
    pub mod affinity {
        pub use crate::process::affinity::{apply, plan};
    }
    pub mod capabilities {
        pub use crate::process::capabilities::{Held, Sets};
    }
    pub mod credentials {
        pub use crate::process::credentials::{Groups, Status, User, apply, prepare};
    }
    pub mod env {
        pub use crate::process::env::own;
    }
    pub mod io_priority {
        pub use crate::process::io_priority::{IoPriority, apply};
    }
    pub mod lookup {
        pub use crate::process::lookup::{execve, find};
    }
    pub mod lsm {
        pub use crate::process::lsm::{Host, Labels, apply};
    }
    pub mod memory_policy {
        pub use crate::process::memory_policy::{apply, plan};
    }
    pub mod personality {
        pub use crate::process::personality::{Personality, apply};
    }
    pub mod rlimits {
        pub use crate::process::rlimits::{Rlimit, apply, raise_hard};
    }
    pub mod scheduler {
        pub use crate::process::scheduler::{apply, plan};
    }
    pub mod users {
        pub use crate::process::users::{NO_ID, home, names, who};
    }
}
pub mod seccomp {
    pub use crate::seccomp::{Plan, apply, compile_profile, explain, plan, supported_flags};
    pub mod bpf {
        pub use crate::seccomp::bpf::{Call, run, valid};
    }
    pub mod dump {
        pub use crate::seccomp::dump::dump;
    }
    pub mod listener {
        pub use crate::seccomp::listener::{process_state, send};
    }
}
pub mod state {
    pub use crate::state::{Record, Status, document, spec_state};
}
pub mod sys {
    pub mod bpf {
        pub use crate::sys::bpf::{Instruction, attach_device_program, device_programs, load_device_program};
    }
    pub mod credentials {
        pub use crate::sys::credentials::{capset, is_ambient, setgroups, umask};
    }
    pub mod fs {
        pub use crate::sys::fs::{CWD, O_DIRECTORY, O_PATH, open, take_for_writing};
    }
    pub mod landlock {
        pub use crate::sys::landlock::abi;
    }
    pub mod mountinfo {
        pub use crate::sys::mountinfo::unescape;
    }
    pub mod process {
        pub use crate::sys::process::{Limit, ioprio_get, lead_group, prlimit};
    }
    pub mod seccomp {
        pub use crate::sys::seccomp::{action_available, flag_available};
    }
    pub mod socket {
        pub use crate::sys::socket::{receive, send};
    }
    pub mod task {
        pub use crate::sys::task::{Forked, clone3, exit_now, setfsgid, setfsuid, setsid, wait};
    }
    pub mod tty {
        pub use crate::sys::tty::{set_size, size};
    }
}

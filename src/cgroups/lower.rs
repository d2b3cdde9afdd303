//! The writes that a row of the table of resources asks for: those of a number, and the functions that rows
//! name where one number is not one value of one file.

use std::ops::RangeInclusive;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::resources::{Absent, Bounds, Limit, Target, Write};
use super::value::Value;
use crate::error::Notes;

/// The version of cgroups that the files are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// What a number in `linux.resources` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    NoLimit,
    /// A 0 that is written and limits nothing.
    Zero,
    Limit(i128),
}

pub(super) const NO_SUCH_CONTROL: &str = "cgroup v2 has no such control";

/// The weights of cgroup v1 and of BFQ.
pub(super) const WEIGHT: Bounds = Bounds::Between(10, 1000);

/// The shares of cgroup v1 (`MIN_SHARES` and `MAX_SHARES` of the kernel's scheduler).
const SHARES: RangeInclusive<i128> = 2..=262_144;

/// The writes and notes so far.
pub(super) struct Plan<'a> {
    pub(super) version: Version,
    pub(super) resources: &'a LinuxResources,
    pub(super) writes: Vec<Write>,
    pub(super) notes: &'a mut Notes,
}

/// Returns the place of a member in config.json.
fn place(limit: &Limit) -> String {
    format!("linux.resources.{}", limit.member)
}

impl Plan<'_> {
    fn target(&self, limit: &Limit) -> Target {
        match self.version {
            Version::V1 => limit.v1,
            Version::V2 => limit.v2,
        }
    }

    fn file(&self, limit: &Limit) -> &'static str {
        self.target(limit).file().unwrap_or_default()
    }

    /// Adds the writes that a row asks for.
    pub(super) fn add(&mut self, limit: &Limit) {
        match self.target(limit) {
            Target::File(_) => self.number(limit),
            Target::By(_, function) => function(self, limit),
            Target::Elsewhere(_) => {}
            Target::Refused(why) => {
                let asked = (limit.get)(self.resources).map(|n| limit.bounds.check(n));
                if matches!(asked, Some(Ok(Asked::Limit(_)) | Err(_))) {
                    self.notes.problem(place(limit), why);
                }
            }
        }
    }

    /// Returns what a number asks for. One that is out of bounds is a problem, and asks for nothing.
    fn check(&mut self, number: i128, bounds: Bounds, place: &str) -> Asked {
        bounds.check(number).unwrap_or_else(|message| {
            self.notes.problem(place, message);
            Asked::Nothing
        })
    }

    /// Returns what the member of a row asks for.
    fn asked(&mut self, limit: &Limit) -> Asked {
        match (limit.get)(self.resources) {
            Some(number) => self.check(number, limit.bounds, &place(limit)),
            None => Asked::Nothing,
        }
    }

    /// Adds the write of a number to the file of its row.
    fn number(&mut self, limit: &Limit) {
        let (asked, file) = (self.asked(limit), self.file(limit));
        // A file that both versions have takes the word of v2.
        let no_limit = if limit.v2.file() == Some(file) { Value::Max } else { self.no_limit() };
        self.writes.extend(match asked {
            Asked::Nothing => None,
            Asked::NoLimit => Some(Write::new(file, no_limit, place(limit)).absent(Absent::NoLimit)),
            Asked::Zero => Some(Write::new(file, Value::Number(0), place(limit)).absent(Absent::NoLimit)),
            Asked::Limit(n) => Some(Write::new(file, Value::Number(n), place(limit))),
        });
    }

    fn no_limit(&self) -> Value {
        match self.version {
            Version::V1 => Value::Number(-1),
            Version::V2 => Value::Max,
        }
    }

    /// Adds the limit of swap to `file`. The member is the sum of memory and swap. v1 limits that sum, v2
    /// swap alone.
    fn swap(&mut self, file: &str) {
        let Some(memory) = self.resources.memory() else { return };
        let place = "linux.resources.memory.swap";
        let v2 = self.version == Version::V2;
        let limit = |n| Write::new(file, Value::Number(n), place).absent(Absent::NoSwap);
        let swap = self.check(memory.swap().unwrap_or(0).into(), Bounds::Size, place);
        match (swap, memory.limit().unwrap_or(0).into()) {
            // In v1 memory without a limit has a sum without one. It would go on to limit memory otherwise.
            (Asked::Nothing, -1) | (Asked::NoLimit, _) => {
                self.writes.push(Write::new(file, self.no_limit(), place).absent(Absent::NoLimit));
            }
            (Asked::Nothing | Asked::Zero, _) => {}
            // Without a limit of memory it can only mean swap.
            (Asked::Limit(swap), -1) if v2 => self.writes.push(limit(swap)),
            (_, ..=0) => {
                self.notes.problem(place, "is the sum of memory and swap, and needs memory.limit");
            }
            (Asked::Limit(swap), memory) if swap < memory => {
                let why = "is the sum of memory and swap, and cannot be below memory.limit";
                self.notes.problem(place, format!("{why}, {memory}"));
            }
            (Asked::Limit(swap), memory) => self.writes.push(limit(if v2 { swap - memory } else { swap })),
        }
    }

    /// Returns a device number as the io files contain it.
    fn device(&mut self, major: i64, minor: i64, place: &str) -> Option<String> {
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(major), Ok(minor)) => Some(format!("{major}:{minor}")),
            _ => {
                self.notes.problem(place, format!("{major}:{minor} is not a device"));
                None
            }
        }
    }

    /// Adds a weight of block IO. The file of the BFQ scheduler exists where it is built in or loaded, and
    /// then it is the one that counts.
    fn io_weight(&mut self, limit: &Limit, weight: i128, place: String, value: impl Fn(i128) -> Value) {
        let file = self.file(limit);
        let (bfq, converted) = match (self.version, file) {
            (Version::V2, _) => ("io.bfq.weight", weight_of_blkio(weight)),
            (Version::V1, "blkio.weight") => ("blkio.bfq.weight", weight),
            (Version::V1, _) => ("blkio.bfq.weight_device", weight),
        };
        let instead = Absent::Instead { file, value: value(converted) };
        self.writes.push(Write::new(bfq, value(weight), place).absent(instead));
    }
}

/// Adds the shares of v1, or the weight of v2 that they are. The kernel of v1 silently takes the nearest of
/// the shares that it has, and the conversion of runc and crun does so for v2. Therefore engines send others,
/// and they cannot be errors.
pub(super) fn shares(plan: &mut Plan, limit: &Limit) {
    let Asked::Limit(asked) = plan.asked(limit) else { return };
    let shares = asked.clamp(*SHARES.start(), *SHARES.end());
    if shares != asked {
        let (place, min, max) = (place(limit), SHARES.start(), SHARES.end());
        plan.notes.warn(format!("{place}: {asked} is not between {min} and {max}, using {shares}"));
    }
    let value = if plan.version == Version::V2 { weight_of_shares(shares) } else { shares };
    plan.writes.push(Write::new(plan.file(limit), Value::Number(value), place(limit)));
}

/// Converts v1's shares (2 to 262144, 1024 by default) to v2's weight (1 to 10000, 100 by default), by the
/// curve through these three points that runc and crun use since 2025. The older straight line turned the
/// default into 39.
pub(super) fn weight_of_shares(shares: i128) -> i128 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as i128
        }
    }
}

/// Converts v1's weight (10 to 1000), which is also that of BFQ, to v2's (1 to 10000).
fn weight_of_blkio(weight: i128) -> i128 {
    1 + (weight - 10) * 9999 / 990
}

/// Adds v2's limits of swap and of memory.
pub(super) fn memory_and_swap(plan: &mut Plan, limit: &Limit) {
    plan.swap("memory.swap.max");
    plan.number(limit);
}

/// Adds v1's limit of the sum, after that of memory, which it must not be below.
pub(super) fn swap(plan: &mut Plan, limit: &Limit) {
    plan.swap(plan.file(limit));
}

/// Adds v2's `cpu.max`.
pub(super) fn quota_and_period(plan: &mut Plan, limit: &Limit) {
    /// The kernel's default. A write of the quota alone would leave the former period.
    const PERIOD: u64 = 100_000;
    let given = plan.resources.cpu().as_ref().and_then(LinuxCpu::period).filter(|period| *period != 0);
    let value = |quota| Value::Quota { quota, period: Some(given.unwrap_or(PERIOD)) };
    let place = place(limit);
    let write = match plan.asked(limit) {
        Asked::Limit(quota) => Some(Write::new("cpu.max", value(u64::try_from(quota).ok()), place)),
        Asked::NoLimit => Some(Write::new("cpu.max", value(None), place).absent(Absent::NoLimit)),
        // A period alone limits nothing.
        _ => given.map(|_| {
            let place = "linux.resources.cpu.period";
            Write::new("cpu.max", value(None), place).absent(Absent::NoLimit)
        }),
    };
    plan.writes.extend(write);
}

/// Adds v1's period.
pub(super) fn period(plan: &mut Plan, limit: &Limit) {
    let Asked::Limit(period) = plan.asked(limit) else { return };
    let write = Write::new(plan.file(limit), Value::Number(period), place(limit));
    // A period alone limits nothing.
    let quota = plan.resources.cpu().as_ref().and_then(LinuxCpu::quota).unwrap_or(0);
    plan.writes.push(if quota > 0 { write } else { write.absent(Absent::NoLimit) });
}

pub(super) fn burst(plan: &mut Plan, limit: &Limit) {
    let Some(cpu) = plan.resources.cpu() else { return };
    let quota = cpu.quota().unwrap_or(0);
    // The kernel reports EINVAL for it.
    if quota > 0 && cpu.burst().is_some_and(|burst| burst > quota as u64) {
        plan.notes.problem(place(limit), format!("is above cpu.quota, {quota}"));
    }
    plan.number(limit);
}

/// Adds a list of CPUs or memory nodes.
pub(super) fn list(plan: &mut Plan, limit: &Limit) {
    let Some(cpu) = plan.resources.cpu() else { return };
    let list = if limit.member == "cpu.mems" { cpu.mems() } else { cpu.cpus() };
    let list = list.as_deref().map_or("", str::trim);
    if list.contains(['\n', '\0']) {
        plan.notes.problem(place(limit), format!("{list:?} is not a list"));
    } else if !list.is_empty() {
        plan.writes.push(Write::new(plan.file(limit), list, place(limit)));
    }
}

pub(super) fn weight(plan: &mut Plan, limit: &Limit) {
    if let Asked::Limit(weight) = plan.asked(limit) {
        plan.io_weight(limit, weight, place(limit), Value::Number);
    }
}

pub(super) fn device_weights(plan: &mut Plan, limit: &Limit) {
    let Some(io) = plan.resources.block_io() else { return };
    for (i, entry) in io.weight_device().iter().flatten().enumerate() {
        let place = format!("{}[{i}]", place(limit));
        // An entry has at least one weight (config-linux.md#block-io).
        if entry.weight().is_none() && entry.leaf_weight().is_none() {
            plan.notes.problem(&place, "has neither weight nor leafWeight");
        }
        let device = plan.device(entry.major(), entry.minor(), &place);
        let line = |weight| Value::line(device.clone().unwrap_or_default(), [("", weight)]);
        let (own, leaf) = (format!("{place}.weight"), format!("{place}.leafWeight"));
        let weight = i128::from(entry.weight().unwrap_or(0));
        if let Asked::Limit(weight) = plan.check(weight, WEIGHT, &own) {
            plan.io_weight(limit, weight, own, line);
        }
        let weight = i128::from(entry.leaf_weight().unwrap_or(0));
        if plan.version == Version::V2 {
            if weight != 0 {
                plan.notes.problem(leaf, NO_SUCH_CONTROL);
            }
        } else if let Asked::Limit(weight) = plan.check(weight, WEIGHT, &leaf) {
            plan.writes.push(Write::new("blkio.leaf_weight_device", line(weight), leaf));
        }
    }
}

pub(super) fn throttle(plan: &mut Plan, limit: &Limit) {
    let Some(io) = plan.resources.block_io() else { return };
    let (name, entries) = match limit.member {
        "blockIO.throttleReadBpsDevice" => ("rbps", io.throttle_read_bps_device()),
        "blockIO.throttleWriteBpsDevice" => ("wbps", io.throttle_write_bps_device()),
        "blockIO.throttleReadIOPSDevice" => ("riops", io.throttle_read_iops_device()),
        _ => ("wiops", io.throttle_write_iops_device()),
    };
    for (i, entry) in entries.iter().flatten().enumerate() {
        let place = format!("{}[{i}]", place(limit));
        let Some(device) = plan.device(entry.major(), entry.minor(), &place) else { continue };
        let value = match (plan.version, entry.rate()) {
            (Version::V1, rate) => Value::line(device, [("", rate.to_string())]),
            // In v1 a rate of 0 takes the limit away. In v2 the kernel refuses 0.
            (Version::V2, 0) => Value::line(device, [(name, "max")]),
            (Version::V2, rate) => Value::line(device, [(name, rate.to_string())]),
        };
        let write = Write::new(plan.file(limit), value, place);
        plan.writes.push(if entry.rate() == 0 { write.absent(Absent::NoLimit) } else { write });
    }
}

pub(super) fn huge_pages(plan: &mut Plan, limit: &Limit) {
    for (i, entry) in plan.resources.hugepage_limits().iter().flatten().enumerate() {
        let (place, size) = (format!("{}[{i}]", place(limit)), entry.page_size());
        // The size becomes part of the name of a file.
        if !size.ends_with('B') || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            plan.notes.problem(format!("{place}.pageSize"), format!("{size:?} is not a size such as 2MB"));
            continue;
        }
        let (place, number) = (format!("{place}.limit"), i128::from(entry.limit()));
        let value = match Bounds::Size.check(number) {
            Ok(Asked::NoLimit) => plan.no_limit(),
            Ok(_) => Value::Number(number),
            Err(message) => {
                plan.notes.problem(place, message);
                continue;
            }
        };
        // Pages that are reserved but not touched yet count in rsvd alone. Without a limit there, a container
        // would only notice by SIGBUS.
        for size in [size.clone(), format!("{size}.rsvd")] {
            let file = plan.file(limit).replace("SIZE", &size);
            let write = Write::new(file, value.clone(), &place);
            plan.writes.push(if number == -1 { write.absent(Absent::NoLimit) } else { write });
        }
    }
}

pub(super) fn rdma(plan: &mut Plan, limit: &Limit) {
    let mut entries: Vec<_> = plan.resources.rdma().iter().flatten().collect();
    entries.sort_by_key(|(name, _)| *name);
    for (name, limits) in entries {
        let place = format!("{}[{name:?}]", place(limit));
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\0') {
            plan.notes.problem(place, "is not the name of a device");
            continue;
        }
        let figures = [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())];
        let mut figures = figures.into_iter().filter_map(|(name, n)| Some((name, n?))).peekable();
        if figures.peek().is_none() {
            plan.notes.problem(place, "has neither hcaHandles nor hcaObjects");
            continue;
        }
        plan.writes.push(Write::new(plan.file(limit), Value::line(name, figures), place));
    }
}

pub(super) fn priorities(plan: &mut Plan, limit: &Limit) {
    let Some(network) = plan.resources.network() else { return };
    for (i, entry) in network.priorities().iter().flatten().enumerate() {
        let place = format!("{}[{i}]", place(limit));
        if entry.name().is_empty() || entry.name().contains(char::is_whitespace) {
            let why = format!("{:?} is not an interface's name", entry.name());
            plan.notes.problem(format!("{place}.name"), why);
            continue;
        }
        let value = Value::line(entry.name(), [("", entry.priority())]);
        plan.writes.push(Write::new(plan.file(limit), value, place));
    }
}

pub(super) fn unified(plan: &mut Plan, limit: &Limit) {
    /// Files that act instead of limiting: they would kill, freeze or move the container while it is made.
    const VERBS: [&str; 5] =
        ["cgroup.freeze", "cgroup.kill", "cgroup.procs", "cgroup.threads", "cgroup.type"];
    let mut entries: Vec<_> = plan.resources.unified().iter().flatten().collect();
    entries.sort();
    for (key, value) in entries {
        let place = format!("{}[{key:?}]", place(limit));
        if plan.version == Version::V1 {
            plan.notes
                .problem(place, "invalid configuration: it is for cgroup v2, and this host has v1 for it");
        } else if key.contains(['/', '\0']) || key.starts_with('.') || !key.contains('.') {
            let what = "the specified key has not the form CONTROLLER.VALUE";
            plan.notes.problem(place, format!("{what} `{key}`"));
        } else if VERBS.contains(&key.as_str()) {
            plan.notes.problem(place, "is not a resource");
        } else if value.trim().is_empty() {
            // An empty write to memory.max is a limit of 0.
            plan.notes.problem(place, "has no value");
        } else {
            // A file such as io.max takes one entry in each write.
            let lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
            plan.writes.extend(lines.map(|line| Write::new(key, line, &place)));
        }
    }
}

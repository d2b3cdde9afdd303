//! `capabilities`: the five sets as bit masks (config.md#linux-process, capabilities(7)).
//!
//! Without `capabilities` every set is empty, as in crun and in runc up to 1.1. (Later versions of runc keep
//! all capabilities of the runtime.) A forgotten member must not grant everything.
//!
//! A capability that the kernel does not know, or that the runtime itself lacks, is ignored with a warning.
//! The specification requires this for unknown capabilities. For the others it lets a privileged container
//! run although root has lost some. A violation of the kernel's rules between the sets is an error, except
//! for the ambient set: runc only warns there, and configurations without an inheritable set rely on it.

use caps::Capability;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process};

use crate::error::{Kind, Notes, Result, fail};

/// The capability sets of the process. Bit n is capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// The capabilities of the runtime, which are the most that the process can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub bounding: u64,
    pub permitted: u64,
}

impl Held {
    /// A process that creates or joins a user namespace gets all capabilities there (`set_cred_user_ns`).
    pub const IN_USER_NAMESPACE: Self = Self { bounding: u64::MAX, permitted: u64::MAX };
}

impl Sets {
    fn asked(spec: &LinuxCapabilities) -> Self {
        Self {
            bounding: mask(spec.bounding()),
            effective: mask(spec.effective()),
            permitted: mask(spec.permitted()),
            inheritable: mask(spec.inheritable()),
            ambient: mask(spec.ambient()),
        }
    }

    /// Returns the sets without what the runtime lacks.
    fn limited_to(self, held: Held) -> Self {
        let both = held.bounding & held.permitted;
        Self {
            bounding: self.bounding & held.bounding,
            effective: self.effective & held.permitted,
            permitted: self.permitted & held.permitted,
            inheritable: self.inheritable & both,
            ambient: self.ambient & both,
        }
    }
}

/// Converts the sets to masks, limits them to what the kernel can give, and checks the kernel's rules.
pub(crate) fn plan(spec: Option<&LinuxCapabilities>, held: Held, place: &str, notes: &mut Notes) -> Sets {
    let Some(spec) = spec else { return Sets::default() };
    let asked = Sets::asked(spec);
    // capset(2) refuses both with EPERM, independently of the caller's capabilities.
    let mut within = |name: &str, set: u64, other_name: &str, other: u64| {
        if set & !other != 0 {
            let message = format!("{} not in {other_name}", names(set & !other));
            notes.problem(format_args!("{place}.{name}"), message);
        }
    };
    within("effective", asked.effective, "permitted", asked.permitted);
    within("inheritable", asked.inheritable, "bounding", asked.bounding);
    let mut sets = asked.limited_to(held);
    sets.ambient &= sets.permitted & sets.inheritable;
    sets
}

/// Warns of capabilities that the process does not get. [`plan`] does not, because such a warning belongs to
/// the creation of a container: the standard error of `exec` is that of its program.
pub(crate) fn warn_of_missing(
    spec: Option<&LinuxCapabilities>,
    uid: u32,
    held: Held,
    place: &str,
    notes: &mut Notes,
) {
    let Some(spec) = spec else { return };
    let (asked, sets) = (Sets::asked(spec), Sets::asked(spec).limited_to(held));
    let missing = (asked.bounding & !sets.bounding)
        | (asked.permitted & !sets.permitted)
        | (asked.inheritable & !sets.inheritable)
        | (asked.ambient & !sets.ambient);
    if missing != 0 {
        notes.warn(format!("{place}: the runtime itself lacks {}, ignoring", names(missing)));
    }
    let impossible = sets.ambient & !(sets.permitted & sets.inheritable);
    let lost = match uid {
        // At execve root gets the bounding set anyway, so there is nothing to warn about. buildah 1.28
        // requests such ambient capabilities with every RUN.
        0 => impossible & !sets.bounding,
        // Tools write the same list for every set but the inheritable one (runc spec up to 1.1).
        _ if asked.inheritable == 0 => 0,
        _ => impossible,
    };
    for name in members(lost) {
        // runc's words, for which programs look.
        let words = format!("can't raise ambient capability {name}: not in both permitted and inheritable");
        notes.warn(format!("{place}.ambient: {words}, ignoring"));
    }
}

fn mask(set: &Option<Capabilities>) -> u64 {
    let name = |capability| format!("CAP_{capability}");
    let known = set.iter().flatten().filter_map(|c| name(c).parse::<Capability>().ok());
    known.fold(0, |mask, capability| mask | capability.bitmask())
}

/// Returns the capabilities of a mask in the kernel's order. Capabilities that are newer than the caps crate
/// are missing.
pub(super) fn members(mask: u64) -> Vec<Capability> {
    let mut members: Vec<_> = caps::all().into_iter().filter(|c| mask & c.bitmask() != 0).collect();
    members.sort_unstable_by_key(Capability::index);
    members
}

/// Returns the names of a mask's capabilities in the kernel's order.
#[must_use]
pub(crate) fn names(mask: u64) -> String {
    let names: Vec<String> = members(mask).iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Adds capabilities, with or without `CAP_`, to the bounding, effective and permitted sets, as runc does.
/// The inheritable set does not change, because a program with file capabilities would pass the inheritable
/// ones to any user (CVE-2022-29162). Therefore only a capability that is inheritable already becomes
/// ambient. A user other than root keeps only ambient ones.
pub(crate) fn add(process: &mut Process, names: &[String]) -> Result<()> {
    let mut all = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let upper = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let capability: oci_spec::runtime::Capability = serde_json::from_value(format!("CAP_{upper}").into())
            .map_err(|_| fail(Kind::Usage, format!("--cap {name:?}: unknown capability")))?;
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let [bounding, effective, permitted] = [all.bounding(), all.effective(), all.permitted()].map(with);
        if all.inheritable().as_ref().is_some_and(|set| set.contains(&capability)) {
            let ambient = with(all.ambient());
            all.set_ambient(ambient);
        }
        all.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    }
    process.set_capabilities(Some(all));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Held = Held { bounding: 0x1ff_ffff_ffff, permitted: 0x1ff_ffff_ffff };

    fn check(json: &str, held: Held, expected: Sets, reports: &[&str]) {
        check_user(1000, json, held, expected, reports);
    }

    fn check_user(uid: u32, json: &str, held: Held, expected: Sets, reports: &[&str]) {
        let spec: LinuxCapabilities = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        let sets = plan(Some(&spec), held, "c", &mut notes);
        warn_of_missing(Some(&spec), uid, held, "c", &mut notes);
        let reported =
            notes.problems.0.iter().map(|p| format!("{}: {}", p.place, p.message)).chain(notes.warnings);
        assert_eq!(reported.collect::<Vec<_>>(), reports, "{json}");
        assert_eq!(sets, expected, "{json}");
    }

    #[test]
    fn sets_become_masks() {
        let none = Sets::default();
        check("{}", ALL, none, &[]);
        check(r#"{"bounding": ["CAP_CHOWN", "CAP_BPF"]}"#, ALL, Sets { bounding: 1 << 39 | 1, ..none }, &[]);
        check(
            r#"{"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}"#,
            ALL,
            Sets { bounding: 32, effective: 32, permitted: 32, inheritable: 32, ambient: 32 },
            &[],
        );
    }

    #[test]
    fn an_absent_object_grants_nothing() {
        let mut notes = Notes::default();
        assert_eq!(plan(None, ALL, "c", &mut notes), Sets::default());
    }

    #[test]
    fn violations_of_the_kernels_rules_are_errors_or_warnings() {
        let kill = Sets { permitted: 32, ..Sets::default() };
        check(
            r#"{"effective": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"]}"#,
            ALL,
            Sets { effective: 33, ..kill },
            &["c.effective: CAP_CHOWN not in permitted"],
        );
        check(
            r#"{"inheritable": ["CAP_KILL"], "permitted": ["CAP_KILL"]}"#,
            ALL,
            Sets { inheritable: 32, ..kill },
            &["c.inheritable: CAP_KILL not in bounding"],
        );
        check(
            r#"{"ambient": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"], "bounding": ["CAP_CHOWN"]}"#,
            ALL,
            Sets { inheritable: 1, bounding: 1, ..kill },
            &[
                "c.ambient: can't raise ambient capability CAP_KILL: not in both permitted and inheritable, ignoring",
            ],
        );
        // What runc spec writes with a user other than root.
        check(r#"{"ambient": ["CAP_KILL"], "permitted": ["CAP_KILL"]}"#, ALL, kill, &[]);
    }

    #[test]
    fn root_needs_no_ambient_capabilities() {
        let json = |bounding: &str| {
            format!(r#"{{"bounding": [{bounding}], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}"#)
        };
        let sets = |bounding| Sets { bounding, permitted: 32, ..Sets::default() };
        let lost = [
            "c.ambient: can't raise ambient capability CAP_KILL: not in both permitted and inheritable, ignoring",
        ];
        check_user(0, &json(r#""CAP_KILL""#), ALL, sets(32), &[]);
        check_user(0, &json(""), ALL, sets(0), &lost);
    }

    #[test]
    fn capabilities_that_the_runtime_lacks_are_ignored_with_a_warning() {
        let held = Held { bounding: 0b01, permitted: 0b01 };
        let two = r#"["CAP_CHOWN", "CAP_DAC_OVERRIDE"]"#;
        check(
            &format!(
                r#"{{"bounding": {two}, "effective": {two}, "permitted": {two}, "inheritable": {two}, "ambient": {two}}}"#
            ),
            held,
            Sets { bounding: 1, effective: 1, permitted: 1, inheritable: 1, ambient: 1 },
            &["c: the runtime itself lacks CAP_DAC_OVERRIDE, ignoring"],
        );
        check(
            r#"{"bounding": ["CAP_BPF"]}"#,
            Held::IN_USER_NAMESPACE,
            Sets { bounding: 1 << 39, ..Sets::default() },
            &[],
        );
    }
}

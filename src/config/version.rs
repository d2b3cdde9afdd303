//! `ociVersion`: a SemVer 2.0.0 version (config.md#specification-version) of the spec's major version 1.

use crate::SPEC_VERSION;

/// The release that a version is, or leads to: `1.1.0-rc.1` has the rules of 1.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
}

impl Version {
    /// The newest whose rules we know.
    pub const NEWEST: Self = Self { major: 1, minor: 3, patch: 0 };

    /// Reads SemVer, strictly.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is required".into());
        }
        semver(text).ok_or_else(|| format!("{text:?} is not a SemVer 2.0.0 version"))
    }

    /// A later 1.x only adds fields, which are ignored as any unknown ones; another major version may mean anything.
    pub(super) fn check(self, warnings: &mut Vec<String>) -> Result<Self, String> {
        if self.major != 1 {
            let Self { major, minor, patch } = self;
            return Err(format!("version {major}.{minor}.{patch} is not supported, 1.x is"));
        }
        if self.minor > Self::NEWEST.minor {
            let minor = self.minor;
            warnings.push(format!(
                "ociVersion: 1.{minor} is newer than {SPEC_VERSION}: what it adds is not known, ignoring"
            ));
        }
        Ok(self)
    }

    /// From this version on an unknown capability is to be warned of, not refused.
    pub(super) fn tolerates_capabilities(self) -> bool {
        self >= Self { major: 1, minor: 1, patch: 0 }
    }

    /// From this version on a failing poststart hook stops the container, before it is to be warned of
    /// (runtime.md#lifecycle).
    #[must_use]
    pub fn stops_after_poststart(self) -> bool {
        self >= Self { major: 1, minor: 3, patch: 0 }
    }
}

fn semver(text: &str) -> Option<Version> {
    let (text, build) = match text.split_once('+') {
        Some((text, build)) => (text, Some(build)),
        None => (text, None),
    };
    let (text, pre) = match text.split_once('-') {
        Some((text, pre)) => (text, Some(pre)),
        None => (text, None),
    };
    let identifier = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let no_leading_zero = |s: &str| s == "0" || !s.starts_with('0');
    if let Some(build) = build
        && !build.split('.').all(identifier)
    {
        return None;
    }
    if let Some(pre) = pre
        && !pre.split('.').all(|s| identifier(s) && (!digits(s) || no_leading_zero(s)))
    {
        return None;
    }
    let mut numbers = text.split('.').map(|s| {
        let good = !s.is_empty() && digits(s) && no_leading_zero(s);
        good.then(|| s.parse().ok()).flatten()
    });
    let version = Version { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
    numbers.next().is_none().then_some(version)
}

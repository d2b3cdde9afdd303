//! `ociVersion`: a SemVer 2.0.0 version (config.md#specification-version) with the major version 1.

use crate::SPEC_VERSION;
use crate::error::Notes;

/// The release of a version. A pre-release has the rules of its release: `1.1.0-rc.1` those of 1.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
}

impl Version {
    /// The newest version that corten implements.
    pub const NEWEST: Self = Self { major: 1, minor: 3, patch: 0 };

    /// Reads a SemVer version, strictly.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is required".into());
        }
        semver(text).ok_or_else(|| format!("{text:?} is not a SemVer 2.0.0 version, such as {SPEC_VERSION}"))
    }

    /// Accepts every version 1.x. A later 1.x only adds members, which are ignored like all unknown members.
    /// Members of another major version may have another meaning.
    pub(super) fn check(self, notes: &mut Notes) -> Result<Self, String> {
        if self.major != 1 {
            let Self { major, minor, patch } = self;
            return Err(format!("version {major}.{minor}.{patch} is not supported, 1.x is"));
        }
        if self.minor > Self::NEWEST.minor {
            let minor = self.minor;
            notes.warn(format!(
                "ociVersion: 1.{minor} is newer than {SPEC_VERSION}: what it adds is not known, ignoring"
            ));
        }
        Ok(self)
    }

    /// Reports whether an unknown capability is a warning, as since 1.1.0, instead of an error.
    pub(super) fn tolerates_capabilities(self) -> bool {
        self >= Self { major: 1, minor: 1, patch: 0 }
    }

    /// Reports whether a poststart hook that fails stops the container, as since 1.3.0, instead of causing a
    /// warning (runtime.md#lifecycle).
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

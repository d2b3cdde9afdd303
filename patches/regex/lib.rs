//! regex-lite under the name of regex. oci-spec checks one member, `execCPUAffinity`, with a regular expression
//! of digits, dashes and commas. It depends on the regex crate, whose Unicode tables would be two thirds of all
//! pointers that every start of corten relocates, and a third of the executable. regex-lite has the same
//! interface without them.

pub use regex_lite::*;

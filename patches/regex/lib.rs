//! oci-spec checks one member, `execCPUAffinity`, with a regular expression of digits, dashes and commas. The regex crate
//! that it names would bring its tables of Unicode: two thirds of all the pointers that every start of corten relocates,
//! and a third of the executable. regex-lite has the same interface without them.

pub use regex_lite::*;

//! The API end of a migration target.
fn main() {}

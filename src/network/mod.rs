//! Which address a migration uses, its port, and which endpoints of a target are acceptable.

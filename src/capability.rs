//! The worker's version reply, its capabilities, and the plan made of them.

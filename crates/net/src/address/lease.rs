//! Which address of a subnet is whose.

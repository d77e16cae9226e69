//! Where the server learns names.

use std::net::IpAddr;

/// What the names mean to one sandbox. Called for every query, on the runtime's threads: answers from memory, and does not
/// block.
pub trait NameSource: Send + Sync + 'static {
    /// The addresses, of both families, that a name has for a sandbox; `None` where the name is unknown, so that somebody
    /// else may know it. A name that is known and has no address at all is `Some` of nothing.
    ///
    /// `name` is in lower case and without a final dot.
    fn lookup(&self, sandbox: &str, name: &str) -> Option<Vec<IpAddr>>;

    /// The full name that an address has for a sandbox, as `web.frontend`; `None` where it is nobody's.
    fn reverse(&self, sandbox: &str, address: IpAddr) -> Option<String>;
}

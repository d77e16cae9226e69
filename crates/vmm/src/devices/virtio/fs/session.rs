//! What is saved of a guest that has a file system mounted: what it greeted the server with, and what the server knows of it.
//!
//! Both are a stranger's: the greeting is the guest's own, and the server's state follows from what the guest asked for. The one is
//! bounded here and goes to a server that reads such from guests all the time; the other one is read by the server alone.

use serde::{Deserialize, Serialize};

/// Numbers of requests (linux/fuse.h): the one by which a file system is mounted, and the one by which it is unmounted.
const INIT: u32 = 26;
const DESTROY: u32 = 38;
/// Bytes of a request's header, and where in it is which request it is.
const HEADER: usize = 40;
const OPCODE: std::ops::Range<usize> = 4..8;
/// Bytes of the longest greeting: of `FUSE_INIT`, with room for what later kernels say.
pub(super) const GREETING_MAX: usize = 256;
/// Bytes of the longest answer to that: its header and `struct fuse_init_out`.
pub(super) const ANSWER_MAX: u32 = 256;

/// A guest's use of the file system, from when it mounts it until it unmounts it.
#[derive(Debug, Default)]
pub(super) struct Session {
    greeting: Option<Vec<u8>>,
}

impl Session {
    /// Takes note of a request, of which [`GREETING_MAX`] bytes are enough.
    pub(super) fn note(&mut self, request: &[u8]) {
        match request.get(OPCODE).and_then(|opcode| opcode.try_into().ok()).map(u32::from_le_bytes) {
            Some(INIT) if request.len() >= HEADER => self.greeting = Some(request.to_vec()),
            Some(DESTROY) => self.greeting = None,
            _ => {}
        }
    }

    /// What the guest began with, if it has it mounted.
    pub(super) fn greeting(&self) -> Option<&[u8]> {
        self.greeting.as_deref()
    }
}

/// What another server needs to go on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mounted {
    /// The guest's `FUSE_INIT`.
    pub(super) greeting: Vec<u8>,
    /// What the server said that it knows.
    pub(super) server: Vec<u8>,
}

impl Mounted {
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        postcard::to_stdvec(self).map_err(|error| error.to_string())
    }

    /// From what [`Mounted::to_bytes`] made; nothing of what was not mounted.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let wrong = || "what was saved of a file system is none of it".to_owned();
        let (mounted, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(|_| wrong())?;
        let mut session = Session::default();
        session.note(&mounted.greeting);
        let is_greeting = session.greeting().is_some() && mounted.greeting.len() <= GREETING_MAX;
        if is_greeting && rest.is_empty() { Ok(Some(mounted)) } else { Err(wrong()) }
    }
}

/// Whether a server has taken a greeting: the error in its answer's header (`struct fuse_out_header`).
pub(super) fn check(answer: &[u8]) -> Result<(), String> {
    match answer.get(4..8).and_then(|error| error.try_into().ok()).map(i32::from_le_bytes) {
        Some(0) => Ok(()),
        Some(error) => {
            let error = std::io::Error::from_raw_os_error(error.saturating_neg());
            Err(format!("a file server refuses to begin as before: {error}"))
        }
        None => Err("a file server does not answer as one".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(opcode: u32, length: usize) -> Vec<u8> {
        let mut request = vec![0; length];
        request[OPCODE].copy_from_slice(&opcode.to_le_bytes());
        request
    }

    #[test]
    fn it_lasts_from_a_mount_to_an_unmount() {
        let mut session = Session::default();
        session.note(&request(INIT, HEADER - 1));
        session.note(&[]);
        assert_eq!(session.greeting(), None);
        session.note(&request(INIT, 104));
        session.note(&request(1, 50));
        assert_eq!(session.greeting(), Some(&request(INIT, 104)[..]));
        session.note(&request(DESTROY, HEADER));
        assert_eq!(session.greeting(), None);
    }

    proptest! {
        #[test]
        fn nothing_else_is_taken_for_it(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some(mounted)) = Mounted::from_bytes(&bytes) {
                prop_assert!(mounted.greeting.len() <= GREETING_MAX);
                prop_assert_eq!(Mounted::from_bytes(&mounted.to_bytes().unwrap()), Ok(Some(mounted)));
            }
            let _ = check(&bytes);
        }

        #[test]
        fn what_was_saved_comes_back(length in HEADER..GREETING_MAX, server: Vec<u8>, more in 1..9usize) {
            let mounted = Mounted { greeting: request(INIT, length), server };
            let mut bytes = mounted.to_bytes().unwrap();
            prop_assert_eq!(Mounted::from_bytes(&bytes), Ok(Some(mounted)));
            bytes.extend(std::iter::repeat_n(0, more));
            prop_assert!(Mounted::from_bytes(&bytes).is_err());
        }
    }
}

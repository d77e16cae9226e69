//! A file of a guest as something that is read.

use std::io::Read;

use guest_protocol::files::{At, FileReply, FileRequest, Handle, MAX_IO};

use super::{Guest, unfit};
use crate::{Error, Result};

/// What is in a file, which is opened when it is read for the first time. [`end`](Self::end) closes it.
pub(super) struct Contents<'g> {
    guest: &'g mut Guest,
    handle: Option<Handle>,
    at: &'g At,
    offset: u64,
    bytes: Vec<u8>,
    failure: Option<Error>,
}

impl<'g> Contents<'g> {
    pub(super) fn new(guest: &'g mut Guest, at: &'g At) -> Self {
        Self { guest, handle: None, at, offset: 0, bytes: Vec::new(), failure: None }
    }

    fn next(&mut self) -> Result<Vec<u8>> {
        let handle = match self.handle {
            Some(handle) => handle,
            None => {
                let opened = self.guest.ask(FileRequest::Open(self.at.clone()))?;
                let FileReply::Opened(handle, _) = opened else { return Err(unfit()) };
                *self.handle.insert(handle)
            }
        };
        let read = FileRequest::Read { handle, offset: self.offset, length: MAX_IO };
        match self.guest.ask(read)? {
            FileReply::Bytes(bytes) => Ok(bytes.0),
            _ => Err(unfit()),
        }
    }

    /// Closes it, and says what went wrong with reading it.
    pub(super) fn end(self) -> Result<()> {
        if let Some(handle) = self.handle {
            self.guest.order(FileRequest::Close(handle))?;
        }
        self.failure.map_or(Ok(()), Err)
    }
}

impl Read for Contents<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            match self.next() {
                Ok(bytes) => {
                    self.offset += bytes.len() as u64;
                    self.bytes = bytes;
                }
                Err(error) => {
                    let told = std::io::Error::other(error.to_string());
                    self.failure = Some(error);
                    return Err(told);
                }
            }
        }
        let count = into.len().min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes.drain(..count);
        Ok(count)
    }
}

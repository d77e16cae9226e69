//! Both ends of a conversation over vsock, for the tests: `talk listen PATH` is the host's, `talk PORT` the guest's.
//!
//! Each says a line, hears one and prints it; then a MiB goes to the host and comes back.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [listen, path] if listen == "listen" => {
            let (stream, _) = UnixListener::bind(path)?.accept()?;
            let mut reader = BufReader::new(stream.try_clone()?);
            converse(&mut reader, &stream, "the host")?;
            let mut bytes = Vec::new();
            reader.take(MUCH).read_to_end(&mut bytes)?;
            (&stream).write_all(&bytes)
        }
        [port] => {
            let stream = dial(port.parse().map_err(io::Error::other)?)?;
            let mut reader = BufReader::new(stream.try_clone()?);
            converse(&mut reader, &stream, "the guest")?;
            let sent: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
            let (writer, copy) = (stream.try_clone()?, sent.clone());
            let writing = std::thread::spawn(move || (&writer).write_all(&copy));
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            writing.join().map_err(|_| io::Error::other("the writer panicked"))??;
            println!("talk: {} bytes came back, {}", bytes.len(), if bytes == sent { "the same" } else { "others" });
            Ok(())
        }
        _ => Err(io::Error::other("talk listen PATH, or talk PORT")),
    }
}

const MUCH: u64 = 1 << 20;

fn converse(reader: &mut impl BufRead, mut writer: impl Write, who: &str) -> io::Result<()> {
    writeln!(writer, "hello from {who}")?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    print!("talk: {line}");
    Ok(())
}

/// Connects to a port of the host.
fn dial(port: u32) -> io::Result<File> {
    // SAFETY: the call takes numbers alone.
    let socket = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zero bytes are a valid address.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address lives for the call, and is as long as is said.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

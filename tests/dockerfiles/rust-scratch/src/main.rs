use std::io::Write;

fn main() -> std::io::Result<()> {
    for connection in std::net::TcpListener::bind("[::]:9000")?.incoming() {
        connection?.write_all(b"still here\n")?;
    }
    Ok(())
}

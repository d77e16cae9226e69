//! The OCI runtime command by itself.

fn main() -> std::process::ExitCode {
    sandbox::runtime::main(std::env::args_os())
}

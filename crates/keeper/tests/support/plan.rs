use sandbox::{ExecPlan, InitPlan};

pub fn init(argv: &[&str], terminal: bool, wait: bool) -> Vec<u8> {
    InitPlan { argv: argv.iter().map(|s| s.to_string()).collect(), terminal, wait }.to_bytes().unwrap()
}
pub fn exec(argv: &[&str], terminal: bool) -> Vec<u8> {
    ExecPlan { argv: argv.iter().map(|s| s.to_string()).collect(), terminal }.to_bytes().unwrap()
}

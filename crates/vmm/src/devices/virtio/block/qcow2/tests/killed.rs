//! A process that is killed while it writes: what was flushed before is there.

use super::qemu::mend;
use super::*;
use rand_of_a_kind::Numbers;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

/// The variable that has the path of the image on which a process of this test writes.
const IMAGE: &str = "VMM_TEST_QCOW2_KILLED";
const SECTORS: u64 = 4000;

/// Numbers that are always the same, and in no order.
mod rand_of_a_kind {
    pub(super) struct Numbers(pub(super) u64);

    impl Numbers {
        /// The next one below `end` (xorshift).
        pub(super) fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }
    }
}

/// The writes of a round: sector, number of sectors, and what is written.
fn writes(round: u64) -> Vec<(u64, u64, u8)> {
    let mut numbers = Numbers(round * 2 + 1);
    (0..numbers.below(30) + 1)
        .map(|_| {
            let count = numbers.below(40) + 1;
            (numbers.below(SECTORS - count), count, numbers.below(255) as u8 + 1)
        })
        .collect()
}

fn carry_out(disk: &mut Disk, round: u64) {
    for (number, (at, count, byte)) in writes(round).into_iter().enumerate() {
        if number % 5 == 4 {
            disk.zero(at * SECTOR, count * SECTOR, round.is_multiple_of(2)).unwrap();
        } else {
            write(disk, at * SECTOR, &vec![byte; (count * SECTOR) as usize]).unwrap();
        }
    }
}

/// What may be at each sector after so many rounds were flushed: what these wrote, or a write of a later round.
fn may_be(flushed: u64) -> Vec<Vec<u8>> {
    let mut sectors = vec![vec![0]; SECTORS as usize];
    for round in 0..flushed + 2 {
        for (number, (at, count, byte)) in writes(round).into_iter().enumerate() {
            let byte = if number % 5 == 4 { 0 } else { byte };
            for sector in &mut sectors[at as usize..(at + count) as usize] {
                if round < flushed {
                    sector.clear();
                }
                sector.push(byte);
            }
        }
    }
    sectors
}

#[test]
fn what_was_flushed_is_there_after_a_kill_in_the_middle_of_writes() {
    if let Some(path) = std::env::var_os(IMAGE) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut disk = Disk::of_qcow2(file, false, "image").unwrap();
        for round in 0.. {
            carry_out(&mut disk, round);
            disk.flush().unwrap();
            // The test reads this, and kills.
            println!("\nflushed {}", round + 1);
            io::stdout().flush().unwrap();
        }
    }
    for (rounds, cluster_bits) in [(1, 16), (3, 9), (7, 12), (12, 9), (20, 16)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, empty(3, SECTORS * SECTOR, cluster_bits)).unwrap();
        let name = "devices::virtio::block::qcow2::tests::killed::what_was_flushed_is_there_after_a_kill_in_the_middle_of_writes";
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(IMAGE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map(Result::unwrap);
        let flushed = |line: String| line.strip_prefix("flushed ").map(|round| round.parse::<u64>().unwrap());
        lines.by_ref().filter_map(flushed).find(|round| *round >= rounds).unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What it told meanwhile was flushed as well.
        let told = lines.filter_map(flushed).last().unwrap_or(rounds).max(rounds);
        mend(&path);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut disk = disk(&file);
        let all = read(&mut disk, 0, (SECTORS * SECTOR) as usize).unwrap();
        for (number, (sector, may_be)) in all.chunks(SECTOR as usize).zip(may_be(told)).enumerate() {
            assert!(
                may_be.iter().any(|byte| sector == [*byte; SECTOR as usize]),
                "after {told} rounds, sector {number} is {:?}, and may be {may_be:?}",
                &sector[..8]
            );
        }
    }
}

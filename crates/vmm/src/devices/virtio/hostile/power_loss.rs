//! Disks whose host loses its power at any moment: what the guest was told is flushed is there, and of all later writes some parts.

use super::super::block::qcow2::hostile::empty;
use super::super::buffers::Buffers;
use super::logged_file::{Log, LoggedFile};
use super::tests::until_answered;
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::FileExt as _;
use vm_memory::VolatileSlice;

const SECTOR: u64 = 512;
/// Sectors of the disk.
const SECTORS: u64 = 600;
/// The most sectors of a request.
const MOST_SECTORS: u64 = 24;
/// The most requests that are offered at once.
const AT_ONCE: usize = 12;
/// Entries of the queue.
const QUEUE: u16 = 32;
/// How far the buffers of two requests are apart.
const APART: u64 = 0x8000;
/// `VIRTIO_BLK_F_FLUSH`: without it a guest does not say when what it wrote has to be there, so that it always has to be.
const FLUSH: u32 = 1 << 9;
/// `VIRTIO_BLK_F_DISCARD` and `VIRTIO_BLK_F_WRITE_ZEROES`.
const ZEROES: u32 = 1 << 13 | 1 << 14;

/// What a guest asks of its disk.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Write {
        sector: u64,
        count: u64,
    },
    Zero {
        sector: u64,
        count: u64,
        may_be_hole: bool,
    },
    /// What is there then is undefined (5.2.6), and with this device zeros.
    Discard {
        sector: u64,
        count: u64,
    },
    Flush,
}

/// How the disk is kept.
#[derive(Clone, Copy)]
enum Form {
    Raw,
    /// An image with clusters of `1 << .0` bytes.
    Qcow2(u32),
}

impl Form {
    fn empty(self) -> Vec<u8> {
        match self {
            Form::Raw => vec![0; (SECTORS * SECTOR) as usize],
            Form::Qcow2(cluster_bits) => empty(3, SECTORS * SECTOR, cluster_bits),
        }
    }

    fn open(self, file: File) -> Disk {
        match self {
            Form::Raw => Disk::of_file(file, false, "disk").unwrap(),
            Form::Qcow2(_) => Disk::of_qcow2(file, false, "disk").unwrap(),
        }
    }
}

/// What is in each sector that the request of this number writes: its number, again and again, which no other one has.
fn mark(number: usize) -> u16 {
    number as u16 + 1
}

fn ask(guest: &Guest, slot: u16, number: usize, asked: Ask) {
    let header = |kind: u32, sector: u64| [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    let range = |sector: u64, count: u64, may_be_hole: bool| {
        [&sector.to_le_bytes()[..], &(count as u32).to_le_bytes(), &u32::from(may_be_hole).to_le_bytes()].concat()
    };
    let bytes = match asked {
        Ask::Write { sector, count } => {
            let contents = mark(number).to_le_bytes().repeat((count * SECTOR / 2) as usize);
            [header(1, sector), contents].concat()
        }
        Ask::Zero { sector, count, may_be_hole } => [header(13, 0), range(sector, count, may_be_hole)].concat(),
        Ask::Discard { sector, count } => [header(11, 0), range(sector, count, false)].concat(),
        Ask::Flush => header(4, 0),
    };
    let at = BUFFERS + u64::from(slot) * APART;
    guest.put(at, &bytes);
    let (first, end) = (slot * 2, at + bytes.len() as u64);
    guest.put(end, &[0xee]);
    guest.descriptor(0, first, Descriptor { address: at, length: bytes.len() as u32, flags: NEXT, next: first + 1 });
    guest.descriptor(0, first + 1, Descriptor { address: end, length: 1, flags: WRITE, next: 0 });
}

/// Has a guest ask all of it, some at once. Returns what happened to the file, with how many requests had been answered before each event.
fn carried_out(form: Form, features: u32, asked: &[Vec<Ask>]) -> Log {
    let file = LoggedFile::new(form.empty());
    let ending = Arc::new(Ending::new().unwrap());
    let device = Block::new(form.open(file.file()), Limits::default(), &ending).unwrap();
    let mut guest = Guest::new(Arc::new(Mutex::new(device)));
    guest.set_up_with(QUEUE, features);
    let memory = guest.memory.clone();
    file.at_each_moment(move || memory.regions().read_obj(GuestAddress(rings(0) + 2 * RING + 2)).unwrap());
    let mut number = 0;
    for together in asked {
        for (slot, asked) in (0..).zip(together) {
            ask(&guest, slot, number + usize::from(slot), *asked);
        }
        number += together.len();
        let heads: Vec<u16> = (0..together.len() as u16).map(|slot| slot * 2).collect();
        guest.offer(0, number as u16, &heads, QUEUE);
        guest.notify(0);
        until_answered(&guest, number as u16);
    }
    drop(guest);
    file.log()
}

/// What each sector may hold where so many requests had been answered: what the last one left that has to be there, or what a later one writes.
fn may_be(asked: &[Ask], answered: usize, features: u32) -> Vec<Vec<u16>> {
    let flushed = asked[..answered].iter().rposition(|asked| matches!(asked, Ask::Flush)).unwrap_or(0);
    let durable = if features & FLUSH == 0 { answered } else { flushed };
    let mut sectors = vec![vec![0]; SECTORS as usize];
    for (number, asked) in asked.iter().enumerate() {
        let (sector, count, mark) = match *asked {
            Ask::Write { sector, count } => (sector, count, mark(number)),
            Ask::Zero { sector, count, .. } | Ask::Discard { sector, count } => (sector, count, 0),
            Ask::Flush => continue,
        };
        for marks in &mut sectors[sector as usize..(sector + count) as usize] {
            if number < durable {
                marks.clear();
            }
            marks.push(mark);
        }
    }
    sectors
}

/// All sectors of a disk: what is in each, which may be nothing that a request writes.
fn sectors(disk: &mut Disk) -> Vec<Option<u16>> {
    let mut bytes = vec![0xee; (SECTORS * SECTOR) as usize];
    let mut buffers = Buffers::default();
    buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap();
    disk.read(0, &mut buffers).unwrap();
    bytes
        .chunks(SECTOR as usize)
        .map(|sector| {
            let mark = u16::from_le_bytes([sector[0], sector[1]]);
            sector.chunks(2).all(|two| two == mark.to_le_bytes()).then_some(mark)
        })
        .collect()
}

/// Loses the power at a place in the log, and looks at what is left.
fn look(form: Form, features: u32, asked: &[Ask], log: &Log, cut: usize, mut keeps: impl FnMut() -> bool) {
    let left = tempfile::tempfile().unwrap();
    left.write_all_at(&log.left(cut, &mut keeps), 0).unwrap();
    let answered = log.moment(cut).map_or(asked.len(), usize::from);
    let found = sectors(&mut form.open(left.try_clone().unwrap()));
    for (sector, (found, may_be)) in found.iter().zip(may_be(asked, answered, features)).enumerate() {
        assert!(
            found.is_some_and(|found| may_be.contains(&found)),
            "sector {sector} is {found:?} and may be {may_be:?}: {answered} requests of {asked:?} had been answered, and {cut} events of {} had been",
            log.len()
        );
    }
}

fn asks() -> impl Strategy<Value = Vec<Vec<Ask>>> {
    let range = || (0..SECTORS - MOST_SECTORS, 1..=MOST_SECTORS);
    let one = prop_oneof![
        4 => range().prop_map(|(sector, count)| Ask::Write { sector, count }),
        1 => (range(), any::<bool>()).prop_map(|((sector, count), may_be_hole)| Ask::Zero { sector, count, may_be_hole }),
        1 => range().prop_map(|(sector, count)| Ask::Discard { sector, count }),
        1 => Just(Ask::Flush),
    ];
    prop::collection::vec(prop::collection::vec(one, 1..AT_ONCE), 1..8)
}

/// Where the power is lost, as a part of all that happened, and which sectors are kept, one after the other.
fn losses() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<bool>)>> {
    prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<bool>(), 1..100)), 8)
}

/// A guest asks, and the host loses its power at some places.
fn is_as_told(form: Form, is_told: bool, together: &[Vec<Ask>], losses: &[(prop::sample::Index, Vec<bool>)]) {
    let features = ZEROES | if is_told { FLUSH } else { 0 };
    let log = carried_out(form, features, together);
    let asked = together.concat();
    for (cut, kept) in losses {
        let mut kept = kept.iter().copied().cycle();
        look(form, features, &asked, &log, cut.index(log.len() + 1), || kept.next().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_was_flushed_is_there_after_a_loss_of_power(is_told in any::<bool>(), together in asks(), losses in losses()) {
        is_as_told(Form::Raw, is_told, &together, &losses);
    }

    #[test]
    fn what_was_flushed_is_in_an_image_after_a_loss_of_power(
        // With smaller clusters the disk has more than one table of reference counts, of which an image may lack one then.
        cluster_bits in prop::sample::select(vec![12, 16]),
        is_told in any::<bool>(),
        together in asks(),
        losses in losses(),
    ) {
        is_as_told(Form::Qcow2(cluster_bits), is_told, &together, &losses);
    }
}

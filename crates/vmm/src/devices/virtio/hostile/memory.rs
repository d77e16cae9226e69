//! Memory that comes in blocks, beside its guest.

use super::*;
use crate::devices::virtio::memory::BLOCK;
use proptest::prelude::*;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Where the blocks begin: behind 4 GiB.
const START: u64 = 4 << 30;

/// Asks for something about blocks. Returns what is answered, and the state that it tells.
fn ask(guest: &mut Guest, index: u16, kind: u16, start: u64, count: u16) -> (u16, u16) {
    guest.put(
        BUFFERS,
        &[&kind.to_le_bytes()[..], &[0; 6], &start.to_le_bytes(), &count.to_le_bytes(), &[0; 6]].concat(),
    );
    guest.put(BUFFERS + 100, &[0xee; 10]);
    guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 24, flags: NEXT, next: 1 });
    guest.descriptor(0, 1, Descriptor { address: BUFFERS + 100, length: 10, flags: WRITE, next: 0 });
    guest.offer(0, index.wrapping_add(1), &[0], 16);
    guest.notify(0);
    assert_eq!(guest.answered(0), index.wrapping_add(1));
    let answer: [u8; 10] = guest.memory.regions().read_obj(GuestAddress(BUFFERS + 100)).unwrap();
    (u16::from_le_bytes([answer[0], answer[1]]), u16::from_le_bytes([answer[8], answer[9]]))
}

/// Eight bytes of the configuration.
fn told(guest: &mut Guest, at: u64) -> u64 {
    u64::from(guest.read(0x100 + at)) | u64::from(guest.read(0x104 + at)) << 32
}

#[test]
fn a_guest_has_what_it_is_to_have_and_no_more() {
    let (mut guest, blocks) = Guest::with_blocks(MOST);
    guest.set_up(16);
    assert_eq!([0, 16, 24, 32, 40, 48].map(|at| told(&mut guest, at)), [BLOCK, START, MOST, MOST, 0, 0]);
    let no = (1, 0);
    let wrong = (3, 0);
    assert_eq!(ask(&mut guest, 0, PLUG, START, 1), no);
    assert!(guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(5 * BLOCK - 1))).unwrap());
    guest.attached.changed();
    assert_eq!((told(&mut guest, 48), guest.read(0xfc), guest.read(0x60)), (5 * BLOCK, 1, 3));
    assert_eq!(ask(&mut guest, 1, PLUG, START + BLOCK, 4), (0, 0));
    assert_eq!(ask(&mut guest, 2, PLUG, START + 8 * BLOCK, 2), no);
    // Which it has; which there are not.
    assert_eq!(ask(&mut guest, 3, PLUG, START, 2), wrong);
    let wrongs = [(START + 1, 1), (START, 0), (START - BLOCK, 1), (START + MOST, 1), (START + MOST - BLOCK, 2)];
    for ((start, count), index) in wrongs.into_iter().zip(4..) {
        assert_eq!(ask(&mut guest, index, PLUG, start, count), wrong, "{start:#x} {count}");
    }
}

#[test]
fn what_a_guest_gives_back_reads_as_zeros_when_it_has_it_again() {
    let (mut guest, blocks) = Guest::with_blocks(MOST);
    guest.set_up(16);
    guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(4 * BLOCK))).unwrap();
    assert_eq!(ask(&mut guest, 0, PLUG, START, 3), (0, 0));
    guest.put(START + BLOCK, &[7; 100]);
    assert_eq!(ask(&mut guest, 1, STATE, START, 3), (0, 0));
    assert_eq!(ask(&mut guest, 2, STATE, START, 4), (0, 2));
    assert_eq!(ask(&mut guest, 3, STATE, START + 3 * BLOCK, 1), (0, 1));
    assert_eq!(ask(&mut guest, 4, UNPLUG, START + 2 * BLOCK, 2), (3, 0));
    assert_eq!(ask(&mut guest, 5, UNPLUG, START + BLOCK, 1), (0, 0));
    assert_eq!(told(&mut guest, 40), 2 * BLOCK);
    assert_eq!(ask(&mut guest, 6, PLUG, START + BLOCK, 1), (0, 0));
    let read: [u8; 32] = guest.memory.regions().read_obj(GuestAddress(START + BLOCK)).unwrap();
    assert_eq!(read, [0; 32]);
    assert_eq!(ask(&mut guest, 7, UNPLUG_ALL, 0, 0), (0, 0));
    assert_eq!(told(&mut guest, 40), 0);
    assert_eq!(ask(&mut guest, 8, 9, START, 1), (3, 0));
}

#[test]
fn devices_go_nowhere_where_a_guest_has_no_memory() {
    let (mut guest, blocks) = Guest::with_blocks(MOST);
    guest.set_up(16);
    guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(4 * BLOCK))).unwrap();
    assert_eq!(ask(&mut guest, 0, PLUG, START + BLOCK, 1), (0, 0));
    let byte = |guest: &Guest, at| guest.memory.regions().read_obj::<u8>(GuestAddress(at)).unwrap();
    // An answer into the block, across its end, and into none.
    for (at, is_its_own) in [(START + BLOCK, true), (START + 2 * BLOCK - 5, false), (START, false)] {
        guest.set_up(16);
        guest.put(at, &[0xee; 10]);
        guest.descriptor(0, 0, Descriptor { address: BUFFERS, length: 24, flags: NEXT, next: 1 });
        guest.descriptor(0, 1, Descriptor { address: at, length: 10, flags: WRITE, next: 0 });
        guest.offer(0, 1, &[0], 16);
        guest.notify(0);
        let found = (byte(&guest, at) == 0xee, guest.attached.interrupt.is_broken());
        assert_eq!(found, (!is_its_own, !is_its_own), "{at:#x}");
    }
    // A ring where there is none.
    guest.write(0x70, 0);
    assert!(!guest.attached.interrupt.is_broken());
    guest.set_up_at(16, 0, START);
    assert!(guest.attached.interrupt.is_broken());
    guest.set_up_at(16, 0, START + BLOCK);
    assert!(!guest.attached.interrupt.is_broken());
}

#[test]
fn a_driver_that_starts_over_and_a_machine_that_goes_on_find_what_they_have() {
    let (mut guest, blocks) = Guest::with_blocks(MOST);
    guest.set_up(16);
    guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(9 * BLOCK))).unwrap();
    assert_eq!(ask(&mut guest, 0, PLUG, START + 63 * BLOCK, 4), (0, 0));
    let mut guest = guest.goes_on(Kind::Memory);
    assert_eq!([40, 48].map(|at| told(&mut guest, at)), [4 * BLOCK, 9 * BLOCK]);
    assert_eq!(ask(&mut guest, 1, STATE, START + 63 * BLOCK, 4), (0, 0));
    guest.reset();
    assert_eq!([40, 48].map(|at| told(&mut guest, at)), [4 * BLOCK, 9 * BLOCK]);
}

#[test]
fn a_machine_that_is_saved_while_its_guest_gives_blocks_back_has_the_rest_to_give() {
    let (mut guest, blocks) = Guest::with_blocks(MOST);
    guest.set_up(16);
    guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(4 * BLOCK))).unwrap();
    assert_eq!(ask(&mut guest, 0, PLUG, START, 4), (0, 0));
    guest.put(START + BLOCK, &[7; 100]);
    guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(0))).unwrap();
    assert_eq!(ask(&mut guest, 1, UNPLUG, START + 2 * BLOCK, 1), (0, 0));
    let mut guest = guest.goes_on(Kind::Memory);
    assert_eq!([40, 48].map(|at| told(&mut guest, at)), [3 * BLOCK, 0]);
    let kept: u8 = guest.memory.regions().read_obj(GuestAddress(START + BLOCK)).unwrap();
    assert_eq!(kept, 7);
    // It is given nothing meanwhile, and what it asked for last is not there twice.
    assert_eq!(ask(&mut guest, 2, PLUG, START + 2 * BLOCK, 1), (1, 0));
    assert_eq!(ask(&mut guest, 3, UNPLUG, START + 2 * BLOCK, 1), (3, 0));
    for (index, block) in [(4, 3), (5, 0), (6, 1)] {
        assert_eq!(ask(&mut guest, index, UNPLUG, START + block * BLOCK, 1), (0, 0));
    }
    assert_eq!(told(&mut guest, 40), 0);
}

proptest! {
    /// Beside a list of what a guest has, and of what it was given.
    #[test]
    fn blocks_are_as_a_list_of_them_is(asked in prop::collection::vec((0u16..4, 0u64..130, 1u16..6, 0u64..130), 1..60)) {
        let size = MemorySize::from_mib(MemorySize::MIN_MIB).unwrap();
        let more = More { start: layout::more(size), length: MOST };
        let memory = Memory::growing(size, &layout::memory(size), Some(more)).unwrap();
        let open = Arc::new(Mutex::new([false; 2]));
        let opened = Arc::clone(&open);
        let opener = Box::new(move |number: u32, addresses: std::ops::Range<u64>, is_open| {
            assert_eq!(addresses, START + u64::from(number) * (MOST / 2)..START + u64::from(number + 1) * (MOST / 2));
            opened.lock().unwrap()[number as usize] = is_open;
            Ok(())
        });
        let blocks = Arc::new(Mutex::new(Blocks::new(memory.clone(), more, opener).unwrap()));
        let mut guest = Guest::new(Arc::clone(&blocks) as _);
        guest.memory = memory.clone();
        guest.transport = Transport::new(guest.attached.clone(), memory);
        guest.set_up(16);
        let mut has = [false; 128];
        for (index, (kind, first, count, requested)) in asked.into_iter().enumerate() {
            guest.attached.with(&blocks, |blocks| Ok(blocks.ask_for(requested * BLOCK))).unwrap();
            let answer = ask(&mut guest, index as u16, kind, START + first * BLOCK, count);
            let all = has.iter().filter(|has| **has).count() as u64;
            let wanted = has.get_mut(first as usize..first as usize + usize::from(count));
            let expected = match (kind, wanted) {
                (UNPLUG_ALL, _) => {
                    has = [false; 128];
                    (0, 0)
                }
                (_, None) => (3, 0),
                (PLUG, Some(wanted)) if wanted.iter().any(|has| *has) => (3, 0),
                (PLUG, Some(_)) if all + u64::from(count) > requested.min(128) => (1, 0),
                (PLUG, Some(_)) => {
                    has[first as usize..][..count.into()].fill(true);
                    (0, 0)
                }
                (UNPLUG, Some(wanted)) if wanted.iter().all(|has| *has) => {
                    wanted.fill(false);
                    (0, 0)
                }
                (UNPLUG, Some(_)) => (3, 0),
                (_, Some(wanted)) => (0, match wanted.iter().filter(|has| **has).count() {
                    0 => 1,
                    all if all == wanted.len() => 0,
                    _ => 2,
                }),
            };
            prop_assert_eq!(answer, expected);
            prop_assert_eq!(told(&mut guest, 40), has.iter().filter(|has| **has).count() as u64 * BLOCK);
            let parts = [0, 64].map(|half| has[half..half + 64].iter().any(|has| *has));
            prop_assert_eq!(*open.lock().unwrap(), parts);
        }
    }
}

//! The registers by which a guest finds a device and sets it up: virtio over MMIO (4.2).
//!
//! Chosen over PCI: ACPI names each device, so that a kernel finds it without searching a bus, which for half a dozen devices would be a
//! thousand exits; and of a device there are some twenty registers, which is less for a guest to attack.

use super::queue::{CONFIGURATION, Nonsense, Position, Queue};
use super::{Attached, feature};
use crate::bus::Registers;
use crate::memory::Memory;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use virtio_queue::{QueueState, QueueT};

/// Bytes of a device's registers: a page.
pub(crate) const SIZE: u64 = 4096;

/// Where each register is (4.2.2).
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESCRIPTORS_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESCRIPTORS_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const CONFIGURATION_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIGURATION: u64 = 0x100;
}

/// Where the guest writes the number of a queue to tell that it put something there. The kernel takes that, and writes to the queue's event:
/// a device has nothing to do with it.
pub(crate) const NOTIFY: u64 = register::QUEUE_NOTIFY;

/// Bits of the status (2.1).
mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const NEEDS_RESET: u32 = 64;
    pub(super) const FAILED: u32 = 128;
    /// What a guest may set.
    pub(super) const OF_DRIVER: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"STRA");

/// A device, with its registers.
pub(crate) struct Transport {
    attached: Attached,
    memory: Memory,
    status: u32,
    /// Which half of the features is looked at.
    device_features_select: u32,
    driver_features_select: u32,
    /// What the guest accepted.
    features: u64,
    queue_select: u32,
    queues: Vec<Ring>,
    /// How often the configuration had changed before the device was made.
    generation: u32,
}

/// A queue as the guest has set it up.
struct Ring {
    queue: virtio_queue::Queue,
    /// Its size is none that it can have: it never gets ready.
    is_wrong: bool,
}

/// A device's registers as they were saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransportState {
    kind: u32,
    configuration: Vec<u8>,
    status: u32,
    selects: [u32; 3],
    offered: u64,
    features: u64,
    generation: u32,
    why: u32,
    is_broken: bool,
    queues: Vec<RingState>,
    /// What the device knows besides.
    device: Vec<u8>,
}

/// A queue as it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RingState {
    size: u16,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    is_wrong: bool,
    position: Position,
}

impl Transport {
    /// The registers of a device whose requests are in `memory`.
    pub(crate) fn new(attached: Attached, memory: Memory) -> Transport {
        let queues = fresh(&attached);
        Transport {
            attached,
            memory,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            features: 0,
            queue_select: 0,
            queues,
            generation: 0,
        }
    }

    /// What the guest set, and whether the device needs a reset.
    fn status(&self) -> u32 {
        if self.attached.interrupt.is_broken() { self.status | status::NEEDS_RESET } else { self.status }
    }

    /// A guest that reads a configuration piece by piece sees by this that it changed meanwhile, and reads again (4.2.2.1).
    fn generation(&self) -> u32 {
        self.generation.wrapping_add(self.attached.device().changes())
    }

    fn offered(&self) -> u64 {
        self.attached.device().features() | feature::ALL
    }

    fn selected(&mut self) -> Option<&mut Ring> {
        self.queues.get_mut(self.queue_select as usize)
    }

    fn register(&mut self, register: u64) -> u32 {
        match register {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.attached.device().kind(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered(), self.device_features_select),
            register::QUEUE_SIZE_MAX => self.selected().map_or(0, |ring| ring.queue.max_size().into()),
            register::QUEUE_READY => self.selected().is_some_and(|ring| ring.queue.ready()).into(),
            register::INTERRUPT_STATUS => self.attached.interrupt.pending(),
            register::STATUS => self.status(),
            register::CONFIGURATION_GENERATION => self.generation(),
            // Regions of memory that are shared (4.2.2): there are none, which all ones say.
            0xb0..0xfc => u32::MAX,
            _ => 0,
        }
    }

    fn set_register(&mut self, register: u64, value: u32) {
        match register {
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::QUEUE_SELECT => self.queue_select = value,
            register::DRIVER_FEATURES if self.status & status::FEATURES_OK == 0 => match self.driver_features_select {
                0 => self.features = self.features & !0xffff_ffff | u64::from(value),
                1 => self.features = self.features & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            },
            register::INTERRUPT_ACKNOWLEDGE => self.attached.interrupt.acknowledge(value),
            register::STATUS => self.set_status(value),
            _ if self.status & status::DRIVER_OK == 0 => self.set_queue_register(register, value),
            _ => {}
        }
    }

    /// Registers of the selected queue. A size that it can't have keeps it from getting ready; rings that are nowhere are seen when it is used.
    fn set_queue_register(&mut self, register: u64, value: u32) {
        let Some(Ring { queue, is_wrong }) = self.selected() else { return };
        match register {
            register::QUEUE_SIZE => {
                *is_wrong = u16::try_from(value).map_or(true, |size| queue.try_set_size(size).is_err());
            }
            register::QUEUE_READY => queue.set_ready(value == 1 && !*is_wrong),
            register::QUEUE_DESCRIPTORS_LOW => queue.set_desc_table_address(Some(value), None),
            register::QUEUE_DESCRIPTORS_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// The guest says how far it is (3.1.1). A step that it may not make is not made.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let added = value & status::OF_DRIVER & !self.status;
        // A guest takes back nothing but all.
        if value & self.status & status::OF_DRIVER != self.status & status::OF_DRIVER {
            return;
        }
        if added & status::FEATURES_OK != 0 && !self.features_are_right() {
            self.status |= added & !(status::FEATURES_OK | status::DRIVER_OK);
            return;
        }
        self.status |= added;
        if added & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            self.activate();
            // A driver is to tell of nothing before this (3.1.1). Some do, and wait for an answer: that of Linux 5.10 for entropy.
            self.attached.look();
        }
    }

    fn features_are_right(&self) -> bool {
        self.features & !self.offered() == 0 && self.features & feature::VERSION_1 != 0
    }

    /// What the registers say, and how far the device is, while it rests.
    ///
    /// # Errors
    /// The device can't be saved; the text says why.
    pub(crate) fn save(&self) -> Result<TransportState, String> {
        let device = self.attached.device();
        let positions = device.positions();
        let ring = |(number, ring): (usize, &Ring)| {
            let queue = ring.queue.state();
            RingState {
                size: queue.size,
                ready: queue.ready,
                descriptors: queue.desc_table,
                driver: queue.avail_ring,
                device: queue.used_ring,
                is_wrong: ring.is_wrong,
                position: positions.get(number).copied().flatten().unwrap_or_default(),
            }
        };
        Ok(TransportState {
            kind: device.kind(),
            configuration: device.configuration().to_vec(),
            status: self.status,
            selects: [self.device_features_select, self.driver_features_select, self.queue_select],
            offered: device.features() | feature::ALL,
            features: self.features,
            generation: self.generation.wrapping_add(device.changes()),
            why: self.attached.interrupt.pending(),
            is_broken: self.attached.interrupt.is_broken(),
            queues: self.queues.iter().enumerate().map(ring).collect(),
            device: device.state()?,
        })
    }

    /// Has the device, which nobody has used yet, go on from there.
    ///
    /// # Errors
    /// It is another device than the one that was saved; the text says how.
    pub(crate) fn restore(&mut self, state: &TransportState) -> Result<(), String> {
        let has_changed;
        {
            let mut device = self.attached.device();
            if (device.kind(), device.queues().len()) != (state.kind, state.queues.len()) {
                return Err(format!(
                    "a device of kind {} was saved, and one of kind {} is given",
                    state.kind,
                    device.kind()
                ));
            }
            device.set_state(&state.device).map_err(|why| format!("a device of kind {}: {why}", state.kind))?;
            let (now, before, may) = (device.configuration(), &state.configuration, device.may_change());
            let mut places = now.iter().zip(before).enumerate();
            if now.len() != before.len() || places.any(|(at, (now, before))| now != before && !may.contains(&at)) {
                return Err(format!(
                    "a device of kind {} is not as the guest knows it: a disk is written to or not as before, a card has the same MTU",
                    state.kind
                ));
            }
            if device.features() | feature::ALL != state.offered {
                return Err(format!("a device of kind {} offers not what it did", state.kind));
            }
            has_changed = now != before;
        }
        self.generation = state.generation.wrapping_add(has_changed.into());
        for (ring, state) in self.queues.iter_mut().zip(&state.queues) {
            let whole = QueueState {
                max_size: ring.queue.max_size(),
                next_avail: state.position.available,
                next_used: state.position.used,
                event_idx_enabled: false,
                size: state.size,
                ready: state.ready,
                desc_table: state.descriptors,
                avail_ring: state.driver,
                used_ring: state.device,
            };
            ring.queue = virtio_queue::Queue::try_from(whole).map_err(|error| format!("a queue: {error}"))?;
            ring.is_wrong = state.is_wrong;
        }
        self.status = state.status;
        [self.device_features_select, self.driver_features_select, self.queue_select] = state.selects;
        self.features = state.features;
        let was_used = status::DRIVER_OK | status::FEATURES_OK;
        if self.status & was_used == was_used && !state.is_broken {
            self.activate();
            self.attached.restored();
            if has_changed {
                self.attached.interrupt.pull(CONFIGURATION);
            }
        }
        self.attached.interrupt.restore(state.why, state.is_broken);
        Ok(())
    }

    fn activate(&mut self) {
        let event_idx = self.features & feature::EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (number, ring) in self.queues.iter().enumerate() {
            // The registers stay readable: the device gets a copy.
            let copy = virtio_queue::Queue::try_from(ring.queue.state()).ok().filter(|_| ring.queue.ready());
            let Some(mut ring) = copy else {
                queues.push(None);
                continue;
            };
            ring.set_event_idx(event_idx);
            let (interrupt, kick) = (Arc::clone(&self.attached.interrupt), Arc::clone(&self.attached.kicks[number]));
            let Some(queue) = Queue::new(ring, self.memory.clone(), interrupt, kick) else {
                let nonsense = Nonsense(format!("the rings of queue {number} are not in memory"));
                return self.attached.interrupt.fail(&nonsense);
            };
            queues.push(Some(queue));
        }
        let features = self.features;
        self.attached.device().activate(queues, features);
    }

    /// Nothing remains of what the guest has set up.
    pub(crate) fn reset(&mut self) {
        self.attached.device().reset();
        self.queues = fresh(&self.attached);
        self.attached.interrupt.reset();
        (self.status, self.features, self.queue_select) = (0, 0, 0);
        (self.device_features_select, self.driver_features_select) = (0, 0);
    }
}

/// Queues that nobody has set up. A device's sizes are powers of two, so each can be.
fn fresh(attached: &Attached) -> Vec<Ring> {
    let sizes = attached.device().queues();
    let queues = sizes.iter().filter_map(|size| virtio_queue::Queue::new(*size).ok());
    queues.map(|queue| Ring { queue, is_wrong: false }).collect()
}

fn half(value: u64, which: u32) -> u32 {
    match which {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

impl Registers for Transport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(from) = offset.checked_sub(register::CONFIGURATION) {
            data.fill(0);
            let device = self.attached.device();
            let configuration = device.configuration();
            let from = configuration.len().min(usize::try_from(from).unwrap_or(usize::MAX));
            let part = &configuration[from..configuration.len().min(from + data.len())];
            data[..part.len()].copy_from_slice(part);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(from) = offset.checked_sub(register::CONFIGURATION) {
            if self.status() & (status::DRIVER | status::NEEDS_RESET) == status::DRIVER {
                self.attached.device().configure(from, data);
            }
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.set_register(offset, u32::from_le_bytes(word));
        }
    }
}

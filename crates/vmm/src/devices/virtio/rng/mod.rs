//! Entropy (5.4): whatever the guest asks for is filled with random bytes of the host's kernel.

use super::Device;
use super::queue::{Nonsense, Position, Queue, Request};
use rustix::rand::{GetRandomFlags, getrandom};

/// Its number.
const KIND: u32 = 4;
/// Bytes that a request gets at most: a guest that asks for more asks again, and the others' devices have their turn between.
const MOST: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub(crate) struct Rng {
    queue: Option<Queue>,
}

impl Device for Rng {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        &[64]
    }

    fn configuration(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, mut queues: Vec<Option<Queue>>, _features: u64) {
        self.queue = queues.pop().flatten();
    }

    fn notified(&mut self, _queue: usize) -> Result<(), Nonsense> {
        self.queue.as_mut().map_or(Ok(()), |queue| queue.handle(fill))
    }

    fn positions(&self) -> Vec<Option<Position>> {
        vec![self.queue.as_ref().map(Queue::position)]
    }

    fn reset(&mut self) {
        self.queue = None;
    }
}

fn fill(mut request: Request<'_>) -> Result<u32, Nonsense> {
    let mut random = [0; MOST];
    let wanted = request.writable.len().min(MOST);
    // The kernel's pool is full once the machine is up, and then this neither waits nor fails; a signal may cut it short.
    let got = getrandom(&mut random[..wanted], GetRandomFlags::empty()).unwrap_or(0);
    Ok(request.writable.write(&random[..got]) as u32)
}

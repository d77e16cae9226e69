//! The clock of a PC: an MC146818, which tells the host's time in UTC, and has the rest of its 128 bytes as memory.
//!
//! Kernels that know KVM's own clock take the time from there. There are no alarms: its interrupt is never raised.

use crate::bus::Registers;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Registers, by the data sheet; the century where PCs have it.
mod register {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const DAY_OF_WEEK: u8 = 0x06;
    pub(super) const DAY: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    pub(super) const CENTURY: u8 = 0x32;
}

/// The divider of its quartz, as firmware leaves it. No update is ever in progress: each read is of one moment.
const A_DIVIDER: u8 = 0x26;
/// 24 hours a day, numbers in BCD.
const B_24_HOURS: u8 = 0x02;
/// The battery is good.
const D_VALID: u8 = 0x80;

/// The clock. The time is what `now` says.
pub(crate) struct Clock {
    index: u8,
    memory: [u8; 128],
    now: fn() -> DateTime,
}

impl Clock {
    /// Its index and its data port.
    pub(crate) const PORTS: u64 = 2;

    /// One that tells the host's time.
    pub(crate) fn new() -> Clock {
        Clock { index: 0, memory: [0; 128], now: || Offset::UTC.to_datetime(Timestamp::now()) }
    }

    /// The index of the register that is looked at, and all of its memory.
    pub(crate) fn save(&self) -> (u8, Vec<u8>) {
        (self.index, self.memory.to_vec())
    }

    /// Goes on from there; the time is the host's all the same.
    pub(crate) fn restore(&mut self, (index, memory): &(u8, Vec<u8>)) {
        self.index = index & 0x7f;
        self.memory.iter_mut().zip(memory).for_each(|(to, from)| *to = *from);
    }

    fn value(&self) -> u8 {
        let now = (self.now)();
        match self.index {
            register::SECONDS => bcd(now.second()),
            register::MINUTES => bcd(now.minute()),
            register::HOURS => bcd(now.hour()),
            register::DAY_OF_WEEK => bcd(now.weekday().to_sunday_one_offset()),
            register::DAY => bcd(now.day()),
            register::MONTH => bcd(now.month()),
            register::YEAR => bcd((now.year() % 100) as i8),
            register::CENTURY => bcd((now.year() / 100) as i8),
            register::A => A_DIVIDER,
            register::B => B_24_HOURS,
            register::C => 0,
            register::D => D_VALID,
            other => self.memory[usize::from(other)],
        }
    }
}

impl Registers for Clock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (1, [byte]) = (offset, data) {
            *byte = self.value();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            // The uppermost bit switches off an interrupt that is not of the clock.
            (0, [index]) => self.index = index & 0x7f,
            (1, [byte]) => self.memory[usize::from(self.index)] = *byte,
            _ => {}
        }
    }
}

/// Two decimal digits, four bits each.
fn bcd(number: i8) -> u8 {
    let number = number.unsigned_abs();
    (number / 10) << 4 | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil;

    fn read(clock: &mut Clock, index: u8) -> u8 {
        clock.write(0, &[index]);
        let mut byte = [0];
        clock.read(1, &mut byte);
        byte[0]
    }

    #[test]
    fn the_time_is_told_in_decimal_digits() {
        let mut clock = Clock { now: || civil::date(2031, 12, 9).at(23, 58, 7, 0), ..Clock::new() };
        let told = [register::CENTURY, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|index| read(&mut clock, index));
        // A Tuesday, the third day from Sunday on.
        assert_eq!(told, [0x20, 0x31, 0x12, 0x09, 0x03, 0x23, 0x58, 0x07]);
        assert_eq!(read(&mut clock, register::D), D_VALID);
    }

    #[test]
    fn the_guest_keeps_what_it_likes_in_the_rest() {
        let mut clock = Clock::new();
        clock.write(0, &[0x80 | 0x50]);
        clock.write(1, &[7]);
        assert_eq!(read(&mut clock, 0x50), 7);
    }
}

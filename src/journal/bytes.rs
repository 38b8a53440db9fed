//! Numbers and byte strings, little-endian, with no room for doubt.

#![forbid(unsafe_code)]

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // A Control Packet is below 256 MiB, so its parts fit.
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A value that may be missing: as itself plus one, since no moment is the last.
pub(super) fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    put_u64(out, value.map_or(0, |value| value.saturating_add(1)));
}

/// No count comes so far: at a thousand million a second it would take a century. What is counted on from
/// what was read stays at it, so that it can be read again.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Takes values off the front of some bytes; `None` when they are not there.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count or a name, which is one: so far from the end that going on from it is safe.
    pub(super) fn number(&mut self) -> Option<u64> {
        self.u64().filter(|&number| number <= NUMBER_MAX)
    }

    /// The outer `None`: not there; the inner one: no value.
    pub(super) fn option(&mut self) -> Option<Option<u64>> {
        Some(self.u64()?.checked_sub(1))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let size = self.u32()? as usize;
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

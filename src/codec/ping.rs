//! PINGREQ and PINGRESP: two bytes each.

#![forbid(unsafe_code)]

use super::fixed_header::packet_type;

/// A whole PINGREQ.
pub const PINGREQ: [u8; 2] = [packet_type::PINGREQ << 4, 0];
/// A whole PINGRESP.
pub const PINGRESP: [u8; 2] = [packet_type::PINGRESP << 4, 0];

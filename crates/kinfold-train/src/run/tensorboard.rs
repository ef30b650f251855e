//! Scalars as TensorBoard reads them.
//!
//! Input: a step and numbers with names. Output: records of an event file. A record (TFRecord) is
//! the length of its data as a u64, the length's checksum, the data, the data's checksum; numbers
//! are little-endian, and a checksum is CRC-32C, rotated and shifted ("masked"). The data is a
//! protocol buffer, TensorFlow's `Event`, of which a few fields are all that is needed.

use std::time::{SystemTime, UNIX_EPOCH};

/// TensorBoard takes any file with `tfevents` in its name.
pub(crate) const EVENTS: &str = "events.out.tfevents.kinfold";

/// The record that every event file begins with.
pub(crate) fn version() -> Vec<u8> {
    let mut event = event(0);
    bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// One record with all these scalars of one step.
pub(crate) fn scalars(step: usize, scalars: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in scalars {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        key(&mut value, 2, FOUR_BYTES);
        value.extend((*number as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = event(step);
    bytes(&mut event, 5, &summary);
    record(&event)
}

/// An event of now.
fn event(step: usize) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    let mut event = Vec::new();
    key(&mut event, 1, EIGHT_BYTES);
    event.extend(now.to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step as u64);
    event
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

// How a field's value is written.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const COUNTED: u64 = 2;
const FOUR_BYTES: u64 = 5;

fn key(out: &mut Vec<u8>, field: u64, written: u64) {
    varint(out, field << 3 | written);
}

fn bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, COUNTED);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

//! Any shape and any bytes: an error or finite numbers, never a panic, and the same bits for one
//! thread and two, whatever the instructions.
//!
//! `cargo +nightly fuzz run losses` from `crates/kinfold`.
#![no_main]

use kinfold::{Embeddings, InfoNce, Instructions, Temperature};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, u8, u8, u16, Vec<u8>)| {
    let (form, dim, stride, offset, log_t, bytes) = input;
    let Ok(tau) = Temperature::new(10f64.powf(f64::from(log_t) / 8192.0 - 4.0)) else { return };
    let loss = match form % 3 {
        0 => InfoNce::new(tau).with_offset(usize::from(offset)),
        1 => InfoNce::new(tau).symmetric(),
        _ => InfoNce::nt_xent(tau),
    };
    let loss = loss.with_memory_budget(if form & 8 == 0 { 0 } else { usize::MAX });
    // Bytes are read as they come: zeros, denormals, infinities and NaN among them.
    let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
    let (dim, stride) = (usize::from(dim), usize::from(stride));
    let half = numbers.len() / 2;
    let rows = half / stride.max(1);
    let (Ok(queries), Ok(keys)) = (
        Embeddings::strided(&numbers[..half], rows, dim, stride),
        Embeddings::strided(&numbers[half..], rows + usize::from(form & 4 != 0), dim, stride),
    ) else {
        return;
    };
    for instructions in Instructions::available() {
        let loss = loss.with_instructions(instructions);
        let one = loss.with_threads(1).value_and_gradient(queries, keys);
        let two = loss.with_threads(2).value_and_gradient(queries, keys);
        match (one, two) {
            (Ok(one), Ok(two)) => {
                assert!(one.mean.is_finite() && one.log_scale.is_finite());
                assert!(one.mean.to_bits() == two.mean.to_bits());
                assert!(one.queries.iter().zip(&two.queries).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
            (one, two) => assert_eq!(one.err(), two.err()),
        }
    }
});

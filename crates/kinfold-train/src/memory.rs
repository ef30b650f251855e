//! How much memory a run will take, and how much there is.
//!
//! Input: settings. Output: bytes, or an error where there are fewer. What is asked for is counted before
//! anything is allocated: an allocation that fails ends a process, and one that succeeds may end another's.

use crate::Error;
use kinfold_nn::encoders::{EncoderSettings, ImageShape, InputShape, ModelSize};
use std::fs;

/// Numbers per weight while a run trains: the weight, its gradient, two moments, and the copies of the last
/// steps' weights that were good.
const TRAINED: f64 = 6.0;
/// What is in use beside the activations that the backward pass waits for, as a multiple of them: gradients
/// of activations, and what operations work in.
const AT_WORK: f64 = 1.6;
/// What a process takes by itself.
const PROCESS: f64 = 64.0 * 1024.0 * 1024.0;

/// Bytes that training takes at most, beside its data, where so many views are encoded at a time: an
/// estimate, within a tenth or so.
pub(crate) fn needed_bytes(encoder: &EncoderSettings, shape: InputShape, views: usize) -> u64 {
    let ModelSize { weights, activations } = encoder.model_size(shape);
    (PROCESS + 4.0 * (TRAINED * weights + AT_WORK * activations * views as f64)) as u64
}

/// Bytes that may be allocated, where Linux tells: those that are free or soon can be, within the limit of
/// this process's group.
pub fn available_bytes() -> Option<u64> {
    let free = system_bytes("/proc/meminfo", "MemAvailable:");
    let group = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    let limit = group("memory.max")
        .map(|most| most.saturating_sub(group("memory.current").unwrap_or_default()));
    [free, limit].into_iter().flatten().min()
}

/// What a line of Linux's says in kB.
pub(crate) fn system_bytes(file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// # Errors
/// When the model alone is more than there is memory for.
pub(crate) fn check_model(encoder: &EncoderSettings, shape: InputShape) -> Result<(), Error> {
    let needed = 4.0 * encoder.model_size(shape).weights;
    let things = match shape {
        InputShape::Images(ImageShape { size, channels }) => {
            format!("images of {size}×{size} in {channels} channels")
        }
        InputShape::Texts { tokens } => format!("texts of {tokens} tokens"),
        InputShape::Vectors { dim } => format!("vectors of {dim} numbers"),
    };
    let what = format!("the {} for {things}", encoder.name);
    check(&what, needed as u64, "smaller widths are settings of [encoder]")
}

/// # Errors
/// When `what` needs more bytes than there are; `help` says what needs fewer.
pub fn check(what: &str, needed: u64, help: &str) -> Result<(), Error> {
    match available_bytes() {
        Some(there) if needed > there => Err(Error::Setting(format!(
            "{what} needs about {}, but {} are free; {help}",
            in_words(needed),
            in_words(there)
        ))),
        _ => Ok(()),
    }
}

/// Bytes as one reads them.
pub fn in_words(bytes: u64) -> String {
    let mib = bytes as f64 / 1_048_576.0;
    match mib {
        _ if mib < 1000.0 => format!("{mib:.0} MiB"),
        _ if mib < 1_048_576.0 => format!("{:.1} GiB", mib / 1024.0),
        _ => format!("{:.0} TiB", mib / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused_and_what_it_has_is_not() {
        assert_eq!(in_words(3 << 20), "3 MiB");
        assert_eq!(in_words(3 << 29), "1.5 GiB");
        let (colour, grey) =
            (ImageShape { size: 32, channels: 3 }, ImageShape { size: 8, channels: 1 });
        let widths = Some(vec![100_000; 3]);
        let huge = EncoderSettings { widths, ..Default::default() };
        if available_bytes().is_some() {
            let said = check_model(&huge, colour.into()).expect_err("no machine has it");
            assert!(said.is_usage() && said.to_string().contains("GiB"), "{said}");
        }
        assert!(check_model(&EncoderSettings::default(), grey.into()).is_ok());
    }
}

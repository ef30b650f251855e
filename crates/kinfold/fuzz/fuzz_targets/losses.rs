//! Any loss of the family, any shape and any bytes: an error or finite numbers, never a panic, and the
//! same bits for one thread and two and for the value alone, whatever the instructions.
//!
//! `cargo +nightly fuzz run losses` from `crates/kinfold`.
#![no_main]

use kinfold::runtime::{Execution, Instructions};
use kinfold::{Batch, ContrastiveLoss, Embeddings, Objective, Reduction, Temperature};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 20], u16, Vec<u8>)| {
    let (settings, log_t, bytes) = input;
    let [shape @ .., objective, number, margin, smoothing, switches, more] = settings;
    let Ok(tau) = Temperature::new(10f64.powf(f64::from(log_t) / 8192.0 - 4.0)) else { return };
    let Some(loss) = loss(tau, shape[0], objective, number) else { return };
    // Of settings that have no meaning with the others nothing comes.
    let on = |bit: u8| switches >> bit & 1 == 1;
    let signed = |x: u8| f64::from(x as i8) / 16.0;
    let margin = if on(0) { signed(margin) } else { 0.0 };
    let smoothing = if on(1) { f64::from(smoothing) / 255.0 } else { 0.0 };
    let loss = loss.with_margin(margin).unwrap_or(loss);
    let loss = loss.with_label_smoothing(smoothing).unwrap_or(loss);
    let loss = loss.with_in_batch_negatives(!on(2)).unwrap_or(loss);
    let loss = loss.with_within_views(on(3)).unwrap_or(loss);
    let budget = if on(4) { 0 } else { usize::MAX };
    let loss = loss.with_execution(Execution::new().with_memory_budget(budget));
    let loss = loss.with_reduction(if on(5) { Reduction::Sum } else { Reduction::Mean });
    let loss = loss.with_offset(usize::from(shape[1] % 8));

    // Bytes are read as they come: zeros, denormals, infinities and NaN among them.
    let numbers: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
    let of = |rows: u8, dim: u8, stride: u8| {
        let (rows, dim, stride) = (rows.into(), dim.into(), stride.into());
        Embeddings::strided(&numbers, rows, dim, stride).ok()
    };
    let part = |at: usize, len: usize| bytes.iter().cycle().skip(at).take(len).copied();
    let [_, _, n, keys, negatives, dim, stride, ids, labels, weights, guide_dim, guide_rows, ..] =
        shape;
    let (Some(queries), Some(key_rows)) = (of(n, dim, stride), of(keys, dim, stride)) else {
        return;
    };
    let few = |x: u8| u64::from(x % 8);
    let (ids, labels): (Vec<u64>, Vec<u64>) =
        (part(1, ids.into()).map(few).collect(), part(2, labels.into()).map(few).collect());
    let weights: Vec<f64> = part(3, weights.into()).map(signed).map(f64::abs).collect();

    let mut batch = Batch::new(queries, key_rows);
    if more & 1 == 1 {
        batch = Batch::labelled(queries, &labels);
    } else if more & 2 == 2 {
        batch = batch.with_labels(&labels);
    }
    match (more >> 2 & 3, of(negatives, dim, stride)) {
        (1, Some(x)) => batch = batch.with_negatives(x),
        (2, Some(x)) => batch = batch.with_negatives_per_query(x),
        _ => {}
    }
    if more & 16 == 16 {
        batch = batch.with_ids(&ids);
    }
    if more & 32 == 32 {
        batch = batch.with_row_weights(&weights);
    }
    if more & 64 == 64 {
        let of_guide = |rows| of(rows, guide_dim, guide_dim);
        let (Some(a), Some(b)) = (of_guide(n), of_guide(keys)) else { return };
        batch = batch.with_guide(a, b, of_guide(guide_rows).filter(|_| more >> 2 & 3 == 1));
    }
    check(&loss, &batch);
});

fn loss(tau: Temperature, form: u8, objective: u8, number: u8) -> Option<ContrastiveLoss> {
    let number = f64::from(number);
    let share = number / 256.0;
    let objective = match objective % 8 {
        0 => Objective::Softmax,
        1 => Objective::Decoupled,
        2 => Objective::DecoupledWeighted { sigma: (number + 1.0) / 64.0 },
        3 => Objective::Debiased { positive_share: share },
        4 => Objective::HardNegatives { positive_share: 0.1, concentration: number / 32.0 },
        5 => Objective::SupConOutside,
        6 => Objective::SupConInside,
        _ => Objective::Sigmoid { bias: number - 128.0 },
    };
    let loss = match form % 3 {
        0 => ContrastiveLoss::info_nce(tau),
        1 => ContrastiveLoss::clip(tau),
        _ => ContrastiveLoss::nt_xent(tau),
    };
    loss.with_objective(objective).ok()
}

fn check(loss: &ContrastiveLoss, batch: &Batch<'_, f32>) {
    for instructions in Instructions::available() {
        let execution = loss.execution().with_instructions(instructions);
        let on = |threads| loss.with_execution(execution.with_threads(threads));
        let one = on(1).value_and_gradient(*batch);
        let two = on(2).value_and_gradient(*batch);
        match (one, two, loss.value(*batch)) {
            (Ok(one), Ok(two), Ok(value)) => {
                assert!(one.mean.is_finite() && one.log_scale.is_finite() && one.bias.is_finite());
                assert!(one.mean.to_bits() == two.mean.to_bits());
                assert!(one.mean.to_bits() == value.mean.to_bits());
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&one.queries), bits(&two.queries));
                assert_eq!(bits(&one.keys), bits(&two.keys));
                assert_eq!(bits(&one.negatives), bits(&two.negatives));
            }
            (one, two, value) => {
                assert_eq!(one.as_ref().err(), two.as_ref().err());
                assert_eq!(one.err(), value.err());
            }
        }
    }
}

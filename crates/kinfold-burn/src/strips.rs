//! The loss in strips of Burn's own tensor operations, for devices that kinfold's engine does not
//! run on. A strip of logits `[m, n]` is the largest thing it holds.
//!
//! Gradients are computed with the value, on tensors without a graph, and put back into the graph
//! as `s = Σ x·dx`: `value + s − s.detach()` is the value, and its derivative is dx.

use burn::tensor::{Int, Tensor};
use kinfold::{Error, Form, InfoNce, NORM_FLOOR, Similarity};

/// Rows of logits held at a time.
const STRIP: usize = 1024;

pub(crate) fn forward(
    loss: &InfoNce,
    queries: Tensor<2>,
    keys: Tensor<2>,
    log_scale: Option<Tensor<1>>,
) -> Result<Tensor<1>, Error> {
    check(queries.dims(), keys.dims())?;
    let scale = match &log_scale {
        Some(log_scale) => log_scale.clone().inner().exp(),
        None => {
            let scale = loss.temperature().scale() as f32;
            Tensor::from_floats([scale], &queries.device().inner())
        }
    };
    // Normalisation stays in Burn's graph: it is linear in n, and its backward is Burn's.
    let (q, k) = match loss.similarity() {
        Similarity::Dot => (queries, keys),
        Similarity::Cosine => (normalised(queries), normalised(keys)),
    };
    let n = q.dims()[0];
    let Sums { value, da, db, dscale } = match loss.form() {
        Form::OneWay => choose(q.clone().inner(), k.clone().inner(), &scale, None),
        Form::BothWays => {
            let there = choose(q.clone().inner(), k.clone().inner(), &scale, None);
            let back = choose(k.clone().inner(), q.clone().inner(), &scale, None);
            Sums {
                value: (there.value + back.value) / 2.0,
                da: (there.da + back.db) / 2.0,
                db: (there.db + back.da) / 2.0,
                dscale: (there.dscale + back.dscale) / 2.0,
            }
        }
        Form::NtXent => {
            let z = Tensor::cat(vec![q.clone().inner(), k.clone().inner()], 0);
            let Sums { value, da, db, dscale } = choose(z.clone(), z, &scale, Some(n));
            let dz = da + db;
            let (dq, dk) = (dz.clone().narrow(0, 0, n), dz.narrow(0, n, n));
            Sums { value, da: dq, db: dk, dscale }
        }
    };
    if !q.device().is_autodiff() {
        return Ok(value);
    }
    let constant = |x: Tensor<2>| Tensor::from_inner(x);
    let mut carrier = (q * constant(da)).sum() + (k * constant(db)).sum();
    if let Some(log_scale) = log_scale {
        carrier = carrier + (log_scale * Tensor::from_inner(dscale)).sum();
    }
    Ok(Tensor::from_inner(value) + carrier.clone() - carrier.detach())
}

fn check([rows, dim]: [usize; 2], [other_rows, other_dim]: [usize; 2]) -> Result<(), Error> {
    if dim != other_dim {
        let (left, right) = ("queries", "keys");
        return Err(Error::Dimension { left, left_dim: dim, right, right_dim: other_dim });
    }
    if rows != other_rows {
        let (left, right) = ("keys", "queries");
        return Err(Error::Rows { left, left_rows: other_rows, right, right_rows: rows });
    }
    if rows == 0 {
        return Err(Error::Empty { matrix: "queries", needed: 1 });
    }
    Ok(())
}

fn normalised(x: Tensor<2>) -> Tensor<2> {
    // The square root has no derivative at 0, so the floor comes before it.
    let floor = NORM_FLOOR * NORM_FLOOR;
    let length = x.clone().powi_scalar(2).sum_dim(1).clamp_min(floor).sqrt();
    x / length
}

struct Sums {
    value: Tensor<1>,
    da: Tensor<2>,
    db: Tensor<2>,
    /// With respect to log(1/τ).
    dscale: Tensor<1>,
}

/// Each row of `a` chooses its positive among the rows of `b`: row i, or for `pairs` stacked views
/// the other view, itself left out.
fn choose(a: Tensor<2>, b: Tensor<2>, scale: &Tensor<1>, pairs: Option<usize>) -> Sums {
    let (device, [n, _]) = (a.device(), a.dims());
    let columns = b.dims()[0];
    let mut value = Tensor::<1>::zeros([1], &device);
    let mut dscale = Tensor::<1>::zeros([1], &device);
    let mut da = Vec::new();
    let mut db = Tensor::<2>::zeros(b.dims(), &device);
    let column = Tensor::<1, Int>::arange(0..columns as i64, &device).reshape([1, columns]);
    let scale = scale.clone().reshape([1, 1]);
    for start in (0..n).step_by(STRIP) {
        let rows = STRIP.min(n - start);
        let row = Tensor::<1, Int>::arange(start as i64..(start + rows) as i64, &device);
        let row = row.reshape([rows, 1]);
        let positive = match pairs {
            None => row.clone(),
            Some(pairs) => (row.clone() + pairs as i64).remainder_scalar(2 * pairs as i64),
        };
        let is_positive = column.clone().equal(positive.expand([rows, columns]));
        let mut left_out = is_positive.clone();
        if pairs.is_some() {
            left_out = left_out.bool_or(column.clone().equal(row.expand([rows, columns])));
        }
        let strip = a.clone().narrow(0, start, rows);
        let s = strip.clone().matmul(b.clone().transpose()) * scale.clone();
        let at = s.clone().mask_fill(is_positive.clone().bool_not(), 0.0).sum_dim(1);
        // The positive stays out of the sum that it is compared with: L = ln(1 + Σ exp(s − at)),
        // by way of the largest negative so that nothing overflows.
        let negatives = s.mask_fill(left_out.clone(), f32::NEG_INFINITY) - at;
        let top = negatives.clone().max_dim(1).clamp_min(0.0);
        let e = (negatives.clone() - top.clone()).exp();
        let neg = e.clone().sum_dim(1);
        let pos = top.clone().neg().exp();
        // log1p where the negatives weigh little, else the plain logarithm of the sum.
        let small = (neg.clone() / pos.clone()).clamp_max(1.0).log1p();
        let large = (neg.clone() + pos.clone()).log() + top;
        let losses = large.mask_where(neg.clone().lower_equal(pos.clone()), small);
        value = value + losses.sum();
        let total = neg.clone() + pos;
        let w = e / total.clone();
        dscale = dscale + (w.clone() * negatives.mask_fill(left_out, 0.0)).sum();
        let w = w.mask_where(is_positive, (neg / total).neg().expand([rows, columns]));
        let w = w * scale.clone() / n as f64;
        da.push(w.clone().matmul(b.clone()));
        db = db + w.transpose().matmul(strip);
    }
    Sums { value: value / n as f64, da: Tensor::cat(da, 0), db, dscale: dscale / n as f64 }
}

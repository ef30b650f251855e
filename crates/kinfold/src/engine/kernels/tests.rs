//! Every instruction set that this machine has, against plain loops.

use super::*;

fn noise(count: usize, mut seed: u64) -> Vec<f64> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Exponentials of panels of one row each, without a scale or a shift.
fn exponentials<R: Arithmetic + Default>(kernels: &Kernels<R>, x: &[R], one: R) -> Vec<R> {
    let mut out = Vec::new();
    for x in x.chunks(kernels.width) {
        let mut panel = x.to_vec();
        panel.resize(kernels.width, R::default());
        let mut lanes = vec![R::default(); kernels.lanes];
        let mut columns = vec![0.0; kernels.width];
        kernels.exponentials(&mut panel, one, &[R::default()], &mut lanes, &mut columns);
        out.extend_from_slice(&panel[..x.len()]);
    }
    out
}

/// An interpreter that looks for undefined behaviour need not see every number.
const EVERY: usize = if cfg!(miri) { 50_000 } else { 1 };

#[test]
fn exp_is_within_two_ulp() {
    for set in Instructions::available() {
        let x: Vec<f32> =
            (0..2_000_000).step_by(EVERY).map(|i| -87.3 + i as f32 * 8.8e-5).collect();
        for (&x, e) in x.iter().zip(exponentials(f32::kernels(set), &x, 1.0)) {
            let right = f64::from(x).exp();
            let ulp = f64::from((right as f32).next_up()) - f64::from(right as f32);
            assert!((f64::from(e) - right).abs() <= 2.0 * ulp, "{set:?}: exp({x}) = {e}");
        }
        let x: Vec<f64> =
            (0..1_000_000u32).step_by(EVERY).map(|i| -708.0 + f64::from(i) * 1.4e-3).collect();
        for (&x, e) in x.iter().zip(exponentials(f64::kernels(set), &x, 1.0)) {
            let right = x.exp();
            assert!(
                (e - right).abs() <= 2.0 * (right.next_up() - right),
                "{set:?}: exp({x}) = {e}"
            );
        }
    }
}

#[test]
fn sigmoid_and_its_logarithm_keep_their_digits() {
    fn check<R: Arithmetic + Default>(
        kernels: &Kernels<R>,
        wide: fn(R) -> f64,
        narrow: fn(f64) -> R,
        ulp: f64,
    ) {
        for at in -900..900 {
            let x = f64::from(at) * 0.11;
            let mut panel = vec![narrow(f64::NEG_INFINITY); kernels.width];
            panel[1] = narrow(x);
            let x = wide(panel[1]);
            let mut sums = [vec![R::default(); kernels.lanes], vec![R::default(); kernels.lanes]];
            let [loss, weight] = &mut sums;
            let (one, none) = (narrow(1.0), [R::default()]);
            kernels.sigmoids(&mut panel, one, &none, loss, weight);
            let right = (1.0 / (1.0 + (-x).exp()), x.max(0.0) + (-x.abs()).exp().ln_1p());
            let close = |given: R, right: f64| {
                // Below the least normal number exp gives 0.
                let lost = if ulp > 1e-10 { 2e-38 } else { 0.0 };
                (wide(given) - right).abs() <= 8.0 * ulp * right.abs() + lost
            };
            assert!(close(panel[1], right.0) && close(loss[1], right.1), "x = {x}");
            assert_eq!(wide(panel[0]), 0.0);
            assert!(close(weight[1], right.0));
        }
    }
    for set in Instructions::available() {
        check(f32::kernels(set), f64::from, |x| x as f32, 6e-8);
        check(f64::kernels(set), |x| x, |x| x, 1.2e-16);
    }
}

#[test]
fn exp_is_zero_far_below_and_at_minus_infinity() {
    for set in Instructions::available() {
        let x = [f32::NEG_INFINITY, f32::MIN, -1e30, -1000.0, -104.0, -88.0, 0.0, -0.0];
        let e = exponentials(f32::kernels(set), &x, 1.0);
        assert_eq!(e, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0], "{set:?}");
        let e = exponentials(f64::kernels(set), &[f64::NEG_INFINITY, -1e300, -746.0, 0.0], 1.0);
        assert_eq!(e, [0.0, 0.0, 0.0, 1.0], "{set:?}");
    }
}

#[test]
fn scale_shift_and_sums() {
    for set in Instructions::available() {
        let kernels = f32::kernels(set);
        let (width, rows) = (kernels.width, 37);
        let s: Vec<f32> = noise(rows * width, 1).iter().map(|&x| x as f32).collect();
        let shifts: Vec<f32> = noise(rows, 2).iter().map(|&x| x as f32).collect();
        let mut panel = s.clone();
        let mut lanes = vec![0.0; rows * kernels.lanes];
        let mut columns = vec![0.5; width];
        kernels.exponentials(&mut panel, 3.0, &shifts, &mut lanes, &mut columns);
        let right = |i: usize, j: usize| f64::from(3.0 * s[i * width + j] - shifts[i]).exp();
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-5, "{set:?}: {a} {b}");
        for i in 0..rows {
            (0..width).for_each(|j| close(panel[i * width + j].into(), right(i, j)));
            let row = &lanes[i * kernels.lanes..(i + 1) * kernels.lanes];
            close(row.iter().sum::<f32>().into(), (0..width).map(|j| right(i, j)).sum());
        }
        for j in 0..width {
            close(columns[j], 0.5 + (0..rows).map(|i| right(i, j)).sum::<f64>());
        }
        let weighted = panel.clone();
        let of_columns: Vec<f32> = (0..width).map(|j| j as f32).collect();
        kernels.weights(&mut panel, &shifts, &of_columns);
        let mut maxima = vec![f32::NEG_INFINITY; rows * kernels.lanes];
        kernels.maxima(&panel, &mut maxima);
        for i in 0..rows {
            let row = &panel[i * width..(i + 1) * width];
            for j in 0..width {
                assert_eq!(row[j], weighted[i * width + j] * (shifts[i] + of_columns[j]));
            }
            let most = |x: &[f32]| x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(most(&maxima[i * kernels.lanes..(i + 1) * kernels.lanes]), most(row));
        }
    }
}

/// Both layouts of the left operand, several panels and segments, overwriting and adding.
fn products<R: Arithmetic + Default>(set: Instructions, real: fn(f64) -> R, wide: fn(R) -> f64) {
    let kernels = R::kernels(set);
    let (height, width) = (kernels.height, kernels.width);
    for layout in [Layout::Packed, Layout::AsStored] {
        for (depth, segments) in [(1, 1), (width, 3), (width - 1, 2)] {
            let tile = if layout == Layout::Packed { depth * height } else { height * width };
            let (left_segment, left_panel) = (tile + 5, segments * (tile + 5));
            let (right_segment, right_panel) = (depth * width, segments * depth * width + 7);
            let numbers =
                |count, seed| -> Vec<R> { noise(count, seed).into_iter().map(real).collect() };
            let (left, right) = (numbers(3 * left_panel, 3), numbers(2 * right_panel, 4));
            for add in [false, true] {
                let product = Product {
                    layout,
                    left: Operand::panels(&left, 3, left_panel).segments(left_segment),
                    right: Operand::panels(&right, 2, right_panel).segments(right_segment),
                    segments,
                    depth,
                    add,
                    next_right: 0,
                };
                let out_panel = 3 * height * width + 2;
                let before = numbers(2 * out_panel, 5);
                let mut out = before.clone();
                kernels.product(&product, &mut out, out_panel);
                for (panel, tile, i, j) in (0..2).flat_map(|p| {
                    (0..3).flat_map(move |t| {
                        (0..height).flat_map(move |i| (0..width).map(move |j| (p, t, i, j)))
                    })
                }) {
                    let at = panel * out_panel + (tile * height + i) * width + j;
                    let mut sum = if add { wide(before[at]) } else { 0.0 };
                    for (s, k) in (0..segments).flat_map(|s| (0..depth).map(move |k| (s, k))) {
                        let of_left = match layout {
                            Layout::Packed => k * height + i,
                            Layout::AsStored => i * width + k,
                        };
                        sum += wide(left[tile * left_panel + s * left_segment + of_left])
                            * wide(right[panel * right_panel + s * right_segment + k * width + j]);
                    }
                    assert!((wide(out[at]) - sum).abs() < 1e-5, "{set:?} {layout:?} {depth}");
                }
                // What lies between the panels is nobody's.
                let gap = 3 * height * width;
                assert!((gap..gap + 2).all(|at| wide(out[at]) == wide(before[at])));
            }
        }
    }
}

#[test]
fn products_are_products() {
    for set in Instructions::available() {
        products::<f32>(set, |x| x as f32, f64::from);
        products::<f64>(set, |x| x, |x| x);
    }
}

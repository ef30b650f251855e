//! The step in tensor operations, in the order in which Burn's own AdamW and SGD take them.

use super::{ADAM, Moment, Rule, ratio};
use burn::tensor::Tensor;

pub(super) fn step(
    rule: &Rule,
    Moment { rate, step, scale }: Moment,
    weight: Tensor<1>,
    gradient: Tensor<1>,
    kept: Vec<Tensor<1>>,
) -> (Tensor<1>, Vec<Tensor<1>>) {
    let gradient = if scale == 1.0 { gradient } else { gradient * scale };
    let mut kept = kept.into_iter();
    let mut next = || kept.next().unwrap_or_else(|| weight.zeros_like());
    match *rule {
        Rule::AdamW { weight_decay } => {
            let (beta_1, beta_2, epsilon) = ADAM;
            let first = next() * beta_1 + gradient.clone() * (1.0 - beta_1);
            let second = next() * beta_2 + gradient.square() * (1.0 - beta_2);
            let (of_first, of_second) =
                (1.0 - beta_1.powi(step as i32), 1.0 - beta_2.powi(step as i32));
            let along = first.clone() / of_first / ((second.clone() / of_second).sqrt() + epsilon);
            let weight = weight * (1.0 - rate * f64::from(weight_decay)) - along * rate;
            (weight, vec![first, second])
        }
        Rule::Sgd { momentum, weight_decay } => {
            let velocity = next();
            let gradient = weight.clone() * weight_decay + gradient;
            let velocity = gradient + velocity * momentum;
            (weight - velocity.clone() * rate, vec![velocity])
        }
        Rule::Lars { momentum, weight_decay, trust } => {
            let velocity = next();
            let gradient = weight.clone() * weight_decay + gradient;
            let ratio = trust.map_or(1.0, |trust| {
                ratio(trust, squares(weight.clone()), squares(gradient.clone()))
            });
            let velocity = velocity * momentum + gradient * (rate * ratio);
            (weight - velocity.clone(), vec![velocity])
        }
    }
}

pub(super) fn squares(x: Tensor<1>) -> f64 {
    x.square().sum().into_data().iter::<f64>().sum()
}

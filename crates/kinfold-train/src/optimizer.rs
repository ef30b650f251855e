//! How weights are moved: Burn's AdamW, with a schedule by steps.

use crate::settings::OptimizerSettings;
use burn::optim::{AdamWConfig, ModuleOptimizer};

/// AdamW as PyTorch has it.
pub(crate) fn adamw(settings: &OptimizerSettings) -> ModuleOptimizer {
    AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(settings.weight_decay).init()
}

/// The learning rate at a step counted from 0: up in a line over the warm-up, then down in half a
/// cosine to 0 at the end.
pub(crate) fn learning_rate(settings: &OptimizerSettings, step: usize, steps: usize) -> f64 {
    let warmup = settings.warmup.min(steps);
    if step < warmup {
        return settings.learning_rate * (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    settings.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_goes_up_and_then_down() {
        let settings = OptimizerSettings { learning_rate: 2.0, weight_decay: 0.0, warmup: 4 };
        let rates: Vec<f64> = (0..12).map(|step| learning_rate(&settings, step, 12)).collect();
        assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!((rates[8] - 1.0).abs() < 1e-12 && rates[11] < 0.1);
        // A warm-up longer than the run is the whole run.
        assert_eq!(learning_rate(&settings, 1, 2), 2.0);
    }
}

use super::*;

#[test]
fn the_rate_goes_up_and_then_down() {
    let settings =
        OptimizerSettings { learning_rate: Some(2.0), warmup: 4, ..OptimizerSettings::default() };
    let rates: Vec<f64> = (0..12).map(|step| learning_rate(&settings, 2, step, 12)).collect();
    assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
    assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
    assert!((rates[8] - 1.0).abs() < 1e-12 && rates[11] < 0.1);
    // A warm-up longer than the run is the whole run.
    assert_eq!(learning_rate(&settings, 2, 1, 2), 2.0);
}

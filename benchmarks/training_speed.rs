//! Our side of `benchmarks/training.py`: trains as the command does, and waits between steps.
//!
//! Usage: `training_speed SETTINGS.toml DATA FOLDER`. The run goes to FOLDER, which must not exist.
//! It answers requests, one a line, until the input ends; then it stops where it is.
//!
//! ```text
//! time COUNT        {"seconds": […], "loss": …}: of so many steps; views, encoder, loss, backward,
//!                   optimizer, and the line in the metrics
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its answers are its output")]

use kinfold_train::{Error, Event, Settings, train};
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What was asked for and not yet answered.
struct Clock {
    left: usize,
    seconds: Vec<f64>,
    start: Instant,
}

impl Clock {
    /// Waits for the next request. The run is over when there is none.
    fn wait(&mut self) {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        let count = line.trim().strip_prefix("time ").and_then(|count| count.parse().ok());
        match (read, count) {
            (Ok(1..), Some(count)) => self.left = count,
            (Ok(0), _) => exit(0),
            _ => {
                eprintln!("{:?} is no request", line.trim());
                exit(1)
            }
        }
        self.seconds.clear();
        self.start = Instant::now();
    }

    fn stepped(&mut self, loss: f64) {
        self.seconds.push(self.start.elapsed().as_secs_f64());
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            println!("{{\"seconds\": {:?}, \"loss\": {loss}}}", self.seconds);
            self.wait();
        }
        self.start = Instant::now();
    }
}

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [settings, data, folder] = &arguments[..] else {
        eprintln!("usage: training_speed SETTINGS.toml DATA FOLDER");
        exit(1)
    };
    let run = || -> Result<(), Error> {
        let mut settings = Settings::from_file(settings)?;
        settings.data = data.to_string_lossy().into_owned();
        let mut clock = Clock { left: 0, seconds: vec![], start: Instant::now() };
        train(settings, folder, &AtomicBool::new(false), &mut |event| {
            match event {
                Event::Started { .. } => clock.wait(),
                Event::Stepped(progress) => clock.stepped(progress.loss),
                Event::Evaluating(_) => exit(0),
                _ => {}
            }
            Ok(())
        })?;
        Ok(())
    };
    if let Err(error) = run() {
        eprintln!("{error}");
        exit(1);
    }
}

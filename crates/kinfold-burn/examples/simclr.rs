//! SimCLR in Burn: two random views of each image are a pair, NT-Xent pulls them together.
//!
//! Trains a small perceptron on the 1797 digits that kinfold-data carries, without labels, and judges it
//! by its nearest neighbours. It takes seconds.
//!
//! `cargo run --release -p kinfold-burn --example simclr`

#![allow(clippy::print_stdout, reason = "an example prints")]

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use kinfold::measures::{Labelled, knn_accuracy};
use kinfold::{Embeddings, Form};
use kinfold_burn::ContrastiveLossConfig;
use kinfold_data::{
    DIGITS, ImageSettings, Images, PairSettings, Pairs, Recipe, Split, ViewSettings, draw_pairs,
};
use std::error::Error;

const BATCH: usize = 256;
const EPOCHS: usize = 30;
const WIDTH: usize = 256;
const EMBEDDING: usize = 64;

/// Pixels to an embedding; the projector, which is thrown away after training, comes after it.
#[derive(Module, Debug)]
struct Encoder {
    hidden: Linear,
    embedding: Linear,
    projector: Linear,
}

impl Encoder {
    fn new(pixels: usize, device: &Device) -> Self {
        Self {
            hidden: LinearConfig::new(pixels, WIDTH).init(device),
            embedding: LinearConfig::new(WIDTH, EMBEDDING).init(device),
            projector: LinearConfig::new(EMBEDDING, EMBEDDING).init(device),
        }
    }

    /// `[n, pixels]` to `[n, EMBEDDING]`.
    fn embed(&self, x: Tensor<2>) -> Tensor<2> {
        self.embedding.forward(relu(self.hidden.forward(x)))
    }

    fn project(&self, x: Tensor<2>) -> Tensor<2> {
        self.projector.forward(relu(self.embed(x)))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    let recipe = Recipe::Affine(ViewSettings::default()); // turned, scaled, sheared and shifted a little
    let reading = ImageSettings::default().reading(DIGITS, recipe.wants_originals());
    let images = Images::read(DIGITS, &reading)?;
    let split = Split::new(&images.items, 0.2);
    let pairs = Pairs::new(&images.items, &split, &PairSettings::default())?;
    let pixels = images.stride();

    let mut encoder = Encoder::new(pixels, &device);
    let mut optimizer = AdamWConfig::new().init();
    let criterion =
        ContrastiveLossConfig::new().with_form(Form::NtXent).with_temperature(0.2).init(&device);
    for epoch in 0..EPOCHS {
        let (mut sum, mut batches) = (0.0, 0);
        for batch in pairs.batches(BATCH, 0, epoch) {
            // First every first view, then every second: [2n, pixels].
            let views = draw_pairs(&images, &batch, &recipe, 0, epoch)?;
            let views = TensorData::new(views, [2 * batch.len(), pixels]);
            let projected = encoder.project(Tensor::from_data(views, &device));
            let [first, second] = projected.chunk(2, 0).try_into().expect("two halves");
            let loss = criterion.forward(first, second);
            sum += loss.clone().into_scalar::<f32>();
            batches += 1;
            let gradients = GradientsParams::from_grads(loss.backward(), &encoder);
            encoder = optimizer.step(1e-3, encoder, gradients);
        }
        println!("epoch {:>2}  loss {:.3}", epoch + 1, sum / batches as f32);
    }

    let (_, classes) = images.items.classes();
    let embed = |rows: &[usize]| -> Result<(Vec<f32>, Vec<u64>), Box<dyn Error>> {
        let x = TensorData::new(images.pixels(rows)?, [rows.len(), pixels]);
        let embeddings = encoder.embed(Tensor::from_data(x, &device)).into_data().try_to_vec()?;
        Ok((embeddings, rows.iter().map(|&row| classes[row] as u64).collect()))
    };
    let ((train, train_labels), (test, test_labels)) = (embed(&split.train)?, embed(&split.test)?);
    let train = Labelled::new(Embeddings::new(&train, EMBEDDING)?, &train_labels)?;
    let test = Labelled::new(Embeddings::new(&test, EMBEDDING)?, &test_labels)?;
    println!("nearest neighbours are right for {:.1} %", 100.0 * knn_accuracy(train, test, 20)?);
    Ok(())
}

//! A plain matrix product with the engine's kernels: the speed of this machine that losses are held
//! against.

use crate::engine::aligned::Aligned;
use crate::engine::kernels::{Arithmetic, Layout, Operand, Product};
use crate::engine::packed::DEPTH;
use crate::engine::threads::Team;
use crate::execution::Instructions;

/// Rows that a thread takes at a time. Every tile's height divides it.
const BLOCK_ROWS: usize = 96;

/// The product of two n × n matrices of f32, already packed. The clock is the caller's.
///
/// ```
/// let mut gemm = kinfold::runtime::Gemm::new(192);
/// let start = std::time::Instant::now();
/// gemm.run(2); // two threads
/// let speed = gemm.flops() / start.elapsed().as_secs_f64();
/// # assert!(speed > 0.0);
/// ```
pub struct Gemm {
    n: usize,
    left: Aligned<f32>,
    right: Aligned<f32>,
    out: Aligned<f32>,
}

impl std::fmt::Debug for Gemm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gemm").field("n", &self.n).finish_non_exhaustive()
    }
}

impl Gemm {
    /// Matrices of at least n rows and columns, filled up to whole blocks; see [`rows`](Self::rows).
    pub fn new(n: usize) -> Self {
        let n = n.max(1).next_multiple_of(BLOCK_ROWS);
        let mut gemm = Self {
            n,
            left: Aligned::zeros(n * n),
            right: Aligned::zeros(n * n),
            out: Aligned::zeros(n * n),
        };
        // Any numbers that are neither zero nor subnormal will do.
        for matrix in [&mut gemm.left, &mut gemm.right] {
            matrix.iter_mut().enumerate().for_each(|(i, x)| *x = 0.5 + (i % 61) as f32 / 61.0);
        }
        gemm
    }

    /// n, after filling up.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Additions and multiplications of one product: 2n³.
    pub fn flops(&self) -> f64 {
        2.0 * (self.n as f64).powi(3)
    }

    /// Computes the product once, on at most `threads` threads (0: all) of the current rayon pool.
    pub fn run(&mut self, threads: usize) {
        let threads = if threads == 0 { rayon::current_num_threads() } else { threads };
        let instructions = Instructions::best();
        let kernels = f32::kernels(instructions);
        let (n, height, width) = (self.n, kernels.height, kernels.width);
        let (right, team) = (&self.right, Team::new(threads, instructions));
        let blocks = self.out.chunks_mut(BLOCK_ROWS * n).zip(self.left.chunks(BLOCK_ROWS * n));
        team.each(blocks, |(out, left)| {
            for from in (0..n).step_by(DEPTH) {
                let depth = DEPTH.min(n - from);
                let left = &left[from * BLOCK_ROWS..];
                let product = Product {
                    layout: Layout::Packed,
                    left: Operand::panels(left, BLOCK_ROWS / height, depth * height),
                    right: Operand::panels(&right[from * width..], n / width, n * width),
                    segments: 1,
                    depth,
                    add: from > 0,
                    next_right: n * width,
                };
                kernels.product(&product, out, BLOCK_ROWS * width);
            }
        });
    }
}

//! How a loss is computed, apart from what it is: threads, memory, instructions.
//!
//! Input: what a caller allows. Output: an [`Execution`], which the engine follows. None of it
//! changes the result by a bit, except the instruction set and what is passed over, where sums are ordered
//! differently.

/// The most bytes of exponentials kept between passes, unless a caller says otherwise.
const DEFAULT_MEMORY_BUDGET: usize = 512 << 20;

/// How a loss is computed: see [`ContrastiveLoss::with_execution`](crate::ContrastiveLoss::with_execution).
///
/// ```
/// use kinfold::runtime::Execution;
/// use kinfold::{ContrastiveLoss, Temperature};
///
/// let frugal = Execution::new().with_threads(1).with_memory_budget(64 << 20);
/// let loss = ContrastiveLoss::clip(Temperature::new(0.07)?).with_execution(frugal);
/// # Ok::<(), kinfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    pub(crate) threads: usize,
    pub(crate) memory_budget: usize,
    pub(crate) skips_unweighted: bool,
    pub(crate) instructions: Instructions,
}

impl Execution {
    /// All threads of the current rayon pool, 512 MiB, and the best instructions of this machine.
    pub fn new() -> Self {
        Self {
            threads: 0,
            memory_budget: DEFAULT_MEMORY_BUDGET,
            skips_unweighted: false,
            instructions: Instructions::best(),
        }
    }

    /// At most this many threads; 0, the default, means as many as the current rayon pool has. The
    /// result has the same bits whatever the number.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Exponentials are kept between the passes as far as this many bytes reach, and computed twice
    /// otherwise. Those of the first rows are kept, unless they would be less than an eighth of all.
    /// 512 MiB by default. One way has a single pass and keeps none.
    #[must_use]
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Self { memory_budget: bytes, ..self }
    }

    /// Whether rows of [weight](crate::loss::Batch::with_row_weights) 0 are passed over: then their losses in
    /// [`Value::rows`](crate::loss::Value::rows) may be 0, and everything else is as it would be. For processes that share
    /// a batch, each of which gives the others' rows a weight of 0. Rows choose among columns and columns among rows one
    /// after the other then, three products each, so it pays where at least half of the rows are passed over.
    #[must_use]
    pub fn with_unweighted_rows_skipped(self, skipped: bool) -> Self {
        Self { skips_unweighted: skipped, ..self }
    }

    /// Other instructions than the best that this machine has; for tests and comparisons.
    #[doc(hidden)]
    #[must_use]
    pub fn with_instructions(self, instructions: Instructions) -> Self {
        Self { instructions, ..self }
    }
}

impl Default for Execution {
    fn default() -> Self {
        Self::new()
    }
}

/// Instruction sets that the engine is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instructions {
    /// None in particular: runs everywhere.
    Portable,
    /// AVX2 and FMA, on x86-64.
    Avx2,
    /// AVX-512 F, on x86-64.
    Avx512,
    /// Neon, on 64-bit ARM.
    Neon,
}

impl Instructions {
    /// Every instruction set, the best last.
    const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// Those that this machine can run, the best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The best that this machine can run.
    pub fn best() -> Self {
        Self::available().next_back().unwrap_or(Self::Portable)
    }

    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => false,
        }
    }
}

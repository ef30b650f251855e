//! How a problem is cut up, and how long every buffer is. Nothing here depends on the number of
//! threads, and so neither do the bits of a result.

use crate::engine::kernels::Kernels;
use crate::engine::terms::rule::Terms;

/// Rows of a block, as near as tiles allow.
const BLOCK: usize = 48;
/// Inner indices of a product at a time: what keeps a panel in the first cache.
pub(crate) const DEPTH: usize = 256;
/// A strip has as many blocks as fit into so many bytes, within these bounds.
const STRIP_BYTES: usize = 48 << 20;
const LEAST_BLOCKS: usize = 8;

/// At least one in so many strips must be kept, or none is.
const WORTHWHILE: usize = 8;

/// Which rows are compared with which columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// All rows with all columns; row i's positive is column i + `offset`.
    Rectangle { offset: usize },
    /// All rows with all columns; positives are elsewhere.
    Apart,
    /// Rows against themselves, every pair of rows once: row i with the columns above i. The
    /// positive of row i is its partner, where that is above i.
    Triangle { partner: Partner },
    /// Rows against themselves, row i with all columns but i; its positive is its partner.
    Square { partner: Partner },
}

/// Which row is another row's positive, where rows are compared with themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partner {
    /// Row i's is so many rows further on, around the end: the other view of the same thing.
    View(usize),
    /// Listed for each row; see [`Problem`](crate::engine::strips::strip::Problem).
    Listed,
}

/// What a problem is, as far as the lengths of buffers go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) dim: usize,
    pub(crate) candidates: Candidates,
    pub(crate) terms: Terms,
    /// Dimension of a guide's embeddings; 0 without a guide.
    pub(crate) guide: usize,
    /// Columns, from the first on, whose gradient is asked for.
    pub(crate) moving: usize,
    /// Whole strips are stored; otherwise, for the value alone, one chunk of them at a time.
    pub(crate) stored: bool,
}

/// How a problem is cut up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) dim: usize,
    pub(crate) candidates: Candidates,
    pub(crate) terms: Terms,
    pub(crate) guide: usize,
    pub(crate) moving: usize,
    /// Rows and columns of a tile, and numbers in a vector.
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) lanes: usize,
    /// Rows of a block: what a thread takes in phase A. A multiple of a tile's height and width.
    pub(crate) block: usize,
    /// Blocks of a strip.
    pub(crate) blocks: usize,
    /// Panels of columns, and how many of them make a chunk: what phase A goes through at a time.
    pub(crate) panels: usize,
    pub(crate) chunk: usize,
    /// Panels of features, as the left and as the right operand of a product.
    pub(crate) left_features: usize,
    pub(crate) right_features: usize,
    /// Whole strips are stored; otherwise, for the value alone, one chunk of them at a time.
    pub(crate) stored: bool,
}

impl Plan {
    pub(crate) fn new<R>(
        kernels: &Kernels<R>,
        Shape { rows, columns, dim, candidates, terms, guide, moving, stored }: Shape,
    ) -> Self {
        let Kernels { height, width, lanes, .. } = *kernels;
        let unit = height * width / gcd(height, width);
        let block = unit * (BLOCK / unit).max(1);
        let panels = columns.div_ceil(width);
        let all = rows.div_ceil(block);
        let fit = STRIP_BYTES / (block * panels * width * size_of::<R>());
        let strips = all.div_ceil(fit.max(LEAST_BLOCKS));
        // Strips of one size, a multiple of four so that threads find equal shares.
        let blocks = if strips == 1 { all } else { all.div_ceil(strips).next_multiple_of(4) };
        Self {
            rows,
            columns,
            dim,
            candidates,
            terms,
            guide,
            moving,
            height,
            width,
            lanes,
            block,
            blocks,
            panels,
            // Two chunks at least, so that two threads can pack them.
            chunk: (DEPTH / width).max(1).min(panels.div_ceil(2)),
            left_features: dim.div_ceil(height),
            right_features: dim.div_ceil(width),
            stored,
        }
    }

    /// Rows of a strip.
    pub(crate) fn strip(&self) -> usize {
        self.block * self.blocks
    }

    pub(crate) fn strips(&self) -> usize {
        self.rows.div_ceil(self.strip())
    }

    /// The first panel of columns that rows from `row` on are compared with. `row` is the first of a
    /// block.
    pub(crate) fn first_panel(&self, row: usize) -> usize {
        match self.candidates {
            Candidates::Triangle { .. } => row / self.width,
            Candidates::Rectangle { .. } | Candidates::Apart | Candidates::Square { .. } => 0,
        }
    }

    /// Numbers of one panel of a block.
    pub(crate) fn panel_len(&self) -> usize {
        self.block * self.width
    }

    /// Numbers that one block of strip `strip` stores: `[panels, block, width]`.
    pub(crate) fn stored_block_len(&self, strip: usize) -> usize {
        let panels = if self.stored {
            self.panels - self.first_panel(strip * self.strip())
        } else {
            self.chunk
        };
        panels * self.panel_len()
    }

    /// Numbers that strip `strip` stores: `[blocks, panels, block, width]`.
    pub(crate) fn stored_len(&self, strip: usize) -> usize {
        let rows = self.rows - strip * self.strip();
        self.blocks.min(rows.div_ceil(self.block)) * self.stored_block_len(strip)
    }

    /// How many strips, from the first on, have exponentials that fit into `bytes` together; none
    /// where those would be so few that it is not worth their memory.
    pub(crate) fn kept<R>(&self, bytes: usize) -> usize {
        let mut left = bytes / size_of::<R>();
        let fits = |&s: &usize| {
            let fits = self.stored_len(s) <= left;
            left -= if fits { self.stored_len(s) } else { 0 };
            fits
        };
        let kept = (0..self.strips()).take_while(fits).count();
        if kept * WORTHWHILE < self.strips() { 0 } else { kept }
    }

    /// Numbers in which a block's rows are added up within a chunk, for each of two sums.
    pub(crate) fn lanes_len(&self) -> usize {
        match self.terms {
            Terms::One => self.block * self.lanes,
            Terms::Powers(_) | Terms::Sigmoid(_) => 2 * self.block * self.lanes,
            Terms::ByLabel => 2 * self.block * self.width,
        }
    }

    /// Numbers of a copy of a panel, where two powers or a guide need one.
    pub(crate) fn spare_len(&self) -> usize {
        let needed = matches!(self.terms, Terms::Powers(_)) || self.guide > 0;
        if needed { self.panel_len() } else { 0 }
    }

    /// Numbers of a packed block of a guide's rows.
    pub(crate) fn guide_left_len(&self) -> usize {
        self.block * self.guide
    }

    /// Panels of columns whose gradient is asked for.
    pub(crate) fn moving_panels(&self) -> usize {
        self.moving.div_ceil(self.width)
    }

    /// Numbers of a packed block of rows, `[block / height, dim, height]`.
    pub(crate) fn left_len(&self) -> usize {
        self.block * self.dim
    }

    /// Numbers of a block's gathered columns, `[right features, block, width]`.
    pub(crate) fn gathered_len(&self) -> usize {
        self.right_features * self.panel_len()
    }

    /// Numbers of a block's features, `[left features, block, height]`.
    pub(crate) fn features_len(&self) -> usize {
        self.left_features * self.block * self.height
    }

    /// Numbers of a chunk of columns as the right operand of the logits, `[panels, dim, width]`.
    pub(crate) fn chunk_columns_len(&self) -> usize {
        self.chunk * self.dim * self.width
    }

    /// Numbers of a chunk of columns as the right operand of the rows' gradient,
    /// `[right features, chunk columns, width]`.
    pub(crate) fn chunk_features_len(&self) -> usize {
        self.right_features * self.chunk * self.width * self.width
    }

    pub(crate) fn chunks(&self) -> usize {
        self.panels.div_ceil(self.chunk)
    }

    /// Numbers of one panel of the columns' gradient, `[features, width]`.
    pub(crate) fn scattered_panel_len(&self) -> usize {
        self.left_features * self.height * self.width
    }

    /// Bytes of every buffer together, where the exponentials of `kept` strips are kept.
    pub(crate) fn bytes<R>(&self, kept: usize) -> usize {
        let stored: usize = (0..self.strips().min(kept + 1)).map(|s| self.stored_len(s)).sum();
        let of_block = self.left_len()
            + self.gathered_len().max(self.dim)
            + self.features_len()
            + self.lanes_len()
            + self.spare_len()
            + self.guide_left_len()
            + 5 * self.block;
        let packed = self.chunks() * (self.chunk_columns_len() + self.chunk_features_len())
            + self.panels * self.guide * self.width
            + self.moving_panels() * self.scattered_panel_len();
        let sums = if self.terms.two() { 2 } else { 1 };
        let sums_of_columns = sums * (self.blocks + 1) * self.panels * self.width;
        // Lengths, sums, choices, factors, ids, a pointer to each row, and what threads keep.
        let change = 320 * (self.rows + self.columns) + (1 << 16);
        (stored + self.blocks * of_block + packed) * size_of::<R>()
            + sums_of_columns * size_of::<f64>()
            + change
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

//! A table of kernels: what one instruction set does for one type of number.
//!
//! Input: slices, whose lengths are checked here. What runs behind that are the unsafe functions of
//! the instruction set ([`generic`](super::generic)), over the raw pointers of a [`Tile`] or a [`Panel`].

/// Work on items that is compiled for an instruction set, if it is `#[inline(always)]`. A closure is
/// work, too, but the compiler decides how much of a long one is inlined.
pub(crate) trait Work<I>: Sync {
    fn run(&self, item: I);
}

impl<I, F: Fn(I) + Sync> Work<I> for F {
    #[inline(always)]
    fn run(&self, item: I) {
        self(item);
    }
}

/// Inner indices that a tile goes through in one turn of its loop. A turn for each would end every
/// short segment in a branch that is predicted wrongly.
pub(super) const TURN: usize = 4;

/// Bytes of a cache line.
pub(super) const LINE_BYTES: usize = 64;

/// No tile is wider.
pub(crate) const WIDEST_TILE: usize = 32;

/// What an instruction set brings to one type of number. Only
/// [`Arithmetic::kernels`](super::Arithmetic::kernels) hands it out, for instructions that this
/// machine has been found to have.
#[derive(Debug)]
pub struct Kernels<R: 'static> {
    /// Rows of a tile.
    pub(crate) height: usize,
    /// Columns of a tile.
    pub(crate) width: usize,
    /// Numbers in a vector; divides `width`.
    pub(crate) lanes: usize,
    pub(super) packed: unsafe fn(&Tile<R>),
    pub(super) as_stored: unsafe fn(&Tile<R>),
    pub(super) exponentials: unsafe fn(&Panel<R>),
    pub(super) exponential_sums: unsafe fn(&Panel<R>),
    pub(super) weighted_exponentials: unsafe fn(&Weighing<R>),
    pub(super) sigmoids: unsafe fn(&Panel<R>, *mut R),
    pub(super) weights: unsafe fn(*mut R, usize, *const R, *const R),
    pub(super) maxima: unsafe fn(*const R, usize, *mut R),
}

/// One tile of a product: `out (+)= Σ_segment Σ_k left · right`.
#[derive(Debug)]
pub(crate) struct Tile<R> {
    pub(super) segments: usize,
    pub(super) depth: usize,
    pub(super) left: *const R,
    pub(super) left_segment: usize,
    pub(super) right: *const R,
    pub(super) right_segment: usize,
    pub(super) out: *mut R,
    pub(super) add: bool,
    /// What will be the right operand next, in segments likewise: a cache line of it is asked for in
    /// each turn. May lie anywhere.
    pub(super) ahead: *const R,
}

/// Logits whose exponentials become weights, and what sums of these are multiplied by.
#[derive(Debug)]
pub(crate) struct Weighing<R> {
    /// The weights, and where sums go.
    pub(super) panel: Panel<R>,
    /// `[rows, width]` each.
    pub(super) logits: *const R,
    pub(super) times: *const R,
    /// `[rows]`.
    pub(super) of_rows: *const R,
    /// `[width]`.
    pub(super) of_columns: *const R,
}

/// What exponentials are multiplied by to become weights, `of_rows[i] + of_columns[j]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightsOf<'a, R> {
    pub(crate) rows: &'a [R],
    pub(crate) columns: &'a [R],
}

/// Sums that are added to: over rows, `[rows, lanes]`, and over columns, `[width]`.
#[derive(Debug)]
pub(crate) struct SumsOf<'a, R> {
    pub(crate) rows: &'a mut [R],
    pub(crate) columns: &'a mut [f64],
}

/// A panel of logits that become exponentials, and where their sums go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<R> {
    /// `[rows, width]`.
    pub(super) numbers: *mut R,
    pub(super) rows: usize,
    pub(super) scale: R,
    /// `[rows]`.
    pub(super) shifts: *const R,
    /// `[rows, lanes]`.
    pub(super) row_sums: *mut R,
    /// `[width]`.
    pub(super) column_sums: *mut f64,
}

/// How the left operand of a product lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Panels of `height` rows, `height` numbers for each inner index.
    Packed,
    /// A panel of `width` columns as another product left it: rows of `width` inner indices.
    AsStored,
}

/// An operand of a product: panels at a constant stride, each in segments at a constant stride.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a, R> {
    data: &'a [R],
    panels: usize,
    /// Numbers from one panel to the next.
    panel_stride: usize,
    /// Numbers from one segment to the next.
    segment_stride: usize,
}

impl<'a, R> Operand<'a, R> {
    /// One panel.
    pub(crate) fn panel(data: &'a [R]) -> Self {
        Self::panels(data, 1, 0)
    }

    /// Panels whose starts lie `stride` numbers apart.
    pub(crate) fn panels(data: &'a [R], panels: usize, stride: usize) -> Self {
        Self { data, panels, panel_stride: stride, segment_stride: 0 }
    }

    /// The same in segments whose starts lie `stride` numbers apart.
    pub(crate) fn segments(self, stride: usize) -> Self {
        Self { segment_stride: stride, ..self }
    }

    /// The last number that is read belongs to the data.
    fn reaches(&self, segments: usize, tile: usize) -> bool {
        let last = (self.panels - 1) * self.panel_stride + (segments - 1) * self.segment_stride;
        last + tile <= self.data.len()
    }
}

/// A product of two operands, as the sum over `segments` runs of the inner index, each `depth` long
/// and without a gap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product<'a, R> {
    pub(crate) layout: Layout,
    pub(crate) left: Operand<'a, R>,
    pub(crate) right: Operand<'a, R>,
    pub(crate) segments: usize,
    pub(crate) depth: usize,
    /// Add to the output rather than overwrite it.
    pub(crate) add: bool,
    /// How far behind a right panel lies what is needed after it, in numbers.
    pub(crate) next_right: usize,
}

impl<R: Copy> Kernels<R> {
    /// `out[right panel][left panel] (+)= left · right`, where an out panel is `out_panel` numbers
    /// and holds the tiles of all left panels, one below the other.
    pub(crate) fn product(&self, p: &Product<'_, R>, out: &mut [R], out_panel: usize) {
        let (height, width) = (self.height, self.width);
        let Product { left, right, segments, depth, .. } = *p;
        if left.panels == 0 || right.panels == 0 {
            return;
        }
        assert!(segments > 0 && depth > 0);
        let (left_tile, kernel) = match p.layout {
            Layout::Packed => (depth * height, self.packed),
            Layout::AsStored => {
                assert!(depth <= width);
                ((height - 1) * width + depth, self.as_stored)
            }
        };
        assert!(left.reaches(segments, left_tile) && right.reaches(segments, depth * width));
        let column = left.panels * height * width;
        assert!((right.panels - 1) * out_panel + column <= out.len() && column <= out_panel);
        let segment_len = depth * width;
        let asked_len = depth / TURN * (LINE_BYTES / size_of::<R>());
        for j in 0..right.panels {
            let next = right.data.as_ptr().wrapping_add(j * right.panel_stride + p.next_right);
            for i in 0..left.panels {
                // The tiles of a panel ask for what comes next, a part each.
                let ahead = next.wrapping_add(i * asked_len % segment_len);
                // SAFETY: by the assertions above, the last number that this tile reads of either
                // operand, and the last of the height · width that it writes, lie within their
                // slices. The kernel's instructions were detected before the table was handed out.
                unsafe {
                    kernel(&Tile {
                        segments,
                        depth,
                        left: left.data.as_ptr().add(i * left.panel_stride),
                        left_segment: left.segment_stride,
                        right: right.data.as_ptr().add(j * right.panel_stride),
                        right_segment: right.segment_stride,
                        out: out.as_mut_ptr().add(j * out_panel + i * height * width),
                        add: p.add,
                        ahead,
                    });
                }
            }
        }
    }

    /// Every `s` of a panel becomes `exp(scale · s − shift of its row)`, with at most 2 ulp of
    /// error and 0 where that is below the least normal number; sums over rows are added, lane by
    /// lane, to `row_sums` `[rows, lanes]`, and sums over columns to `column_sums` `[width]`.
    pub(crate) fn exponentials(
        &self,
        panel: &mut [R],
        scale: R,
        shifts: &[R],
        row_sums: &mut [R],
        column_sums: &mut [f64],
    ) {
        let rows = shifts.len();
        assert!(panel.len() == rows * self.width && row_sums.len() == rows * self.lanes);
        assert!(column_sums.len() == self.width);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe {
            (self.exponentials)(&Panel {
                numbers: panel.as_mut_ptr(),
                rows,
                scale,
                shifts: shifts.as_ptr(),
                row_sums: row_sums.as_mut_ptr(),
                column_sums: column_sums.as_mut_ptr(),
            });
        }
    }

    /// The sums of [`exponentials`](Self::exponentials), and the panel stays as it is.
    pub(crate) fn exponential_sums(
        &self,
        panel: &[R],
        scale: R,
        shifts: &[R],
        sums: SumsOf<'_, R>,
    ) {
        let rows = shifts.len();
        assert!(panel.len() == rows * self.width && sums.rows.len() == rows * self.lanes);
        assert!(sums.columns.len() == self.width);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out. It does not write to the panel.
        unsafe {
            (self.exponential_sums)(&Panel {
                numbers: panel.as_ptr().cast_mut(),
                rows,
                scale,
                shifts: shifts.as_ptr(),
                row_sums: sums.rows.as_mut_ptr(),
                column_sums: sums.columns.as_mut_ptr(),
            });
        }
    }

    /// `out[i][j] = exp(scale · logits[i][j] − shifts[i]) · (of.rows[i] + of.columns[j])`, as
    /// [`exponentials`](Self::exponentials) and [`weights`](Self::weights); what is added to the sums is
    /// `out · times`.
    pub(crate) fn weighted_exponentials(
        &self,
        out: &mut [R],
        [logits, times]: [&[R]; 2],
        (scale, shifts): (R, &[R]),
        of: WeightsOf<'_, R>,
        sums: SumsOf<'_, R>,
    ) {
        let rows = shifts.len();
        let len = rows * self.width;
        assert!(out.len() == len && logits.len() == len && times.len() == len);
        assert!(of.rows.len() == rows && of.columns.len() == self.width);
        assert!(sums.rows.len() == rows * self.lanes && sums.columns.len() == self.width);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe {
            (self.weighted_exponentials)(&Weighing {
                panel: Panel {
                    numbers: out.as_mut_ptr(),
                    rows,
                    scale,
                    shifts: shifts.as_ptr(),
                    row_sums: sums.rows.as_mut_ptr(),
                    column_sums: sums.columns.as_mut_ptr(),
                },
                logits: logits.as_ptr(),
                times: times.as_ptr(),
                of_rows: of.rows.as_ptr(),
                of_columns: of.columns.as_ptr(),
            });
        }
    }

    /// Every `s` of a panel becomes `σ(x)`, `x = scale · s − shift of its row`; over rows the sums
    /// of `ln(1 + exp(x))` are added, lane by lane, to `row_sums` `[rows, lanes]`, and those of `σ(x)`
    /// to `weight_sums` `[rows, lanes]`.
    pub(crate) fn sigmoids(
        &self,
        panel: &mut [R],
        scale: R,
        shifts: &[R],
        row_sums: &mut [R],
        weight_sums: &mut [R],
    ) {
        let rows = shifts.len();
        assert!(panel.len() == rows * self.width && row_sums.len() == rows * self.lanes);
        assert!(weight_sums.len() == row_sums.len());
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out. Nobody adds up columns.
        unsafe {
            let panel = Panel {
                numbers: panel.as_mut_ptr(),
                rows,
                scale,
                shifts: shifts.as_ptr(),
                row_sums: row_sums.as_mut_ptr(),
                column_sums: std::ptr::null_mut(),
            };
            (self.sigmoids)(&panel, weight_sums.as_mut_ptr());
        }
    }

    /// `panel[i][j] *= of_rows[i] + of_columns[j]`.
    pub(crate) fn weights(&self, panel: &mut [R], of_rows: &[R], of_columns: &[R]) {
        let rows = of_rows.len();
        assert!(panel.len() == rows * self.width && of_columns.len() == self.width);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe {
            (self.weights)(panel.as_mut_ptr(), rows, of_rows.as_ptr(), of_columns.as_ptr());
        }
    }

    /// `maxima[i][lane]` becomes the larger of itself and the panel's row i, lane by lane.
    pub(crate) fn maxima(&self, panel: &[R], maxima: &mut [R]) {
        let rows = maxima.len() / self.lanes;
        assert!(panel.len() == rows * self.width && maxima.len() == rows * self.lanes);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe { (self.maxima)(panel.as_ptr(), rows, maxima.as_mut_ptr()) }
    }
}

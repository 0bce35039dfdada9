//! Encodes rows on several threads, in order and in bounded memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, available_parallelism};

use arrow::array::RecordBatch;
use buzz_engine::Batches;
use buzz_protocol::{QueryError, Result};
use parking_lot::Mutex;

use crate::format::WriteError;

/// Rows of a piece of text, which one thread encodes.
pub(crate) const PIECE_ROWS: usize = 8192;

/// Maximum number of threads that encode one result.
const THREADS_MAX: usize = 16;

/// Pieces that a thread has at once: one that it encodes and one that waits.
const PIECES_EACH: usize = 2;

/// Returns the number of threads that encode one result.
pub(crate) fn threads() -> usize {
    available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(THREADS_MAX)
}

/// Encodes one piece of the rows.
pub(crate) type Encode<'a, T> = &'a (dyn Fn(RecordBatch) -> Result<T, WriteError> + Sync);

/// Encodes `batches`, in pieces of at most `piece_rows` rows, on `threads` threads, and passes the encoded pieces to `write`
/// in the order of the rows. At most two pieces per thread are held at a time, however slow `write` is.
///
/// # Errors
/// The first error of the batches, of `encode` or of `write`; nothing is written after it.
pub(crate) fn in_order<T: Send>(
    batches: Batches,
    piece_rows: usize,
    threads: usize,
    encode: Encode<'_, T>,
    write: &mut dyn FnMut(T) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut pieces = batches.flat_map(move |batch| pieces_of(batch, piece_rows));
    let Some(first) = pieces.next() else { return Ok(()) };
    let Some(second) = pieces.next() else { return write(encode(first?)?) };
    let pieces = [first, second].into_iter().chain(pieces);
    std::thread::scope(|scope| {
        let start = |_| Worker::start(scope, encode);
        let workers: Vec<Worker<T>> = if threads > 1 { (0..threads).filter_map(start).collect() } else { Vec::new() };
        if workers.is_empty() {
            for piece in pieces {
                write(encode(piece?)?)?;
            }
            return Ok(());
        }
        let (mut given, mut taken) = (0, 0);
        for piece in pieces {
            if given - taken == workers.len() * PIECES_EACH {
                write(workers[taken % workers.len()].encoded()?)?;
                taken += 1;
            }
            workers[given % workers.len()].give(piece?)?;
            given += 1;
        }
        (taken..given).try_for_each(|piece| write(workers[piece % workers.len()].encoded()?))
    })
}

/// Divides a batch into pieces of at most `piece_rows` rows. A batch without rows has none.
fn pieces_of(batch: Result<RecordBatch>, piece_rows: usize) -> Box<dyn Iterator<Item = Result<RecordBatch>> + Send> {
    let batch = match batch {
        Ok(batch) => batch,
        Err(error) => return Box::new(std::iter::once(Err(error))),
    };
    let rows = batch.num_rows();
    let slice = move |start: usize| Ok(batch.slice(start, piece_rows.min(rows - start)));
    Box::new((0..rows).step_by(piece_rows.max(1)).map(slice))
}

/// A thread that encodes pieces, in the order in which it is given them. It ends when it is dropped.
struct Worker<T> {
    pieces: SyncSender<RecordBatch>,
    encoded: Receiver<Result<T, WriteError>>,
}

impl<T: Send> Worker<T> {
    /// Starts a thread. Returns `None` if the system has none left.
    fn start<'scope, 'a: 'scope>(scope: &'scope Scope<'scope, 'a>, encode: Encode<'a, T>) -> Option<Self>
    where
        T: 'scope,
    {
        let (pieces, given) = sync_channel::<RecordBatch>(1);
        let (sender, encoded) = sync_channel(1);
        let work = move || {
            for piece in given {
                if sender.send(unpanicked(|| encode(piece))).is_err() {
                    return;
                }
            }
        };
        Builder::new().name("encode".to_string()).spawn_scoped(scope, work).ok()?;
        Some(Self { pieces, encoded })
    }

    fn give(&self, piece: RecordBatch) -> Result<(), WriteError> {
        self.pieces.send(piece).map_err(|_| ended())
    }

    fn encoded(&self) -> Result<T, WriteError> {
        self.encoded.recv().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> WriteError {
    QueryError::internal("a thread that encodes rows has ended").into()
}

/// Does `work` for each of `items` on up to `threads` threads. Returns the results in the order of the items.
///
/// # Errors
/// The error of the first item that has one.
pub(crate) fn for_each<I: Send, R: Send>(
    items: Vec<I>,
    threads: usize,
    work: &(dyn Fn(I) -> Result<R, WriteError> + Sync),
) -> Result<Vec<R>, WriteError> {
    let others = threads.min(items.len()).saturating_sub(1);
    if others == 0 {
        return items.into_iter().map(work).collect();
    }
    let waiting = Mutex::new(items.into_iter().enumerate());
    let take = || waiting.lock().next();
    let run = || {
        let mut done = Vec::new();
        while let Some((number, item)) = take() {
            done.push((number, unpanicked(|| work(item))));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let start = |_| Builder::new().name("encode".to_string()).spawn_scoped(scope, &run).ok();
        let started: Vec<_> = (0..others).filter_map(start).collect();
        let mut done = run();
        for other in started {
            done.extend(other.join().map_err(|panic| QueryError::panicked(panic.as_ref()))?);
        }
        Ok::<_, QueryError>(done)
    })?;
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Returns a panic of `work` as an error.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, WriteError>) -> Result<T, WriteError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(QueryError::panicked(panic.as_ref()).into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn numbers(values: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn values(batch: &RecordBatch) -> Vec<i64> {
        batch.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    fn batches() -> Batches {
        Box::new([0..10, 10..10, 10..11, 11..100].into_iter().map(|range| Ok(numbers(range))))
    }

    #[test]
    fn pieces_are_written_in_the_order_of_the_rows() {
        for threads in [1, 2, 7] {
            for piece_rows in [1, 3, 1000] {
                let mut written = Vec::new();
                let encode = |batch: RecordBatch| {
                    // The threads overtake each other.
                    (0..values(&batch)[0] % 5).for_each(|_| std::thread::yield_now());
                    Ok(values(&batch))
                };
                let mut write = |piece: Vec<i64>| {
                    assert!(piece.len() <= piece_rows);
                    written.extend(piece);
                    Ok(())
                };
                in_order(batches(), piece_rows, threads, &encode, &mut write).unwrap();
                assert_eq!(written, (0..100).collect::<Vec<_>>(), "{threads} threads, {piece_rows} rows");
            }
        }
    }

    #[test]
    fn pieces_wait_for_a_slow_writer() {
        let (read, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let threads = 3;
        let encode = |batch: RecordBatch| {
            read.fetch_add(1, Ordering::SeqCst);
            Ok(batch.num_rows())
        };
        let mut write = |_| {
            std::thread::yield_now();
            let ahead = read.load(Ordering::SeqCst) - written.fetch_add(1, Ordering::SeqCst);
            assert!(ahead <= threads * PIECES_EACH, "{ahead} pieces are held");
            Ok(())
        };
        in_order(batches(), 1, threads, &encode, &mut write).unwrap();
        assert_eq!(written.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn first_error_ends_the_work() {
        let message = |failed: Result<(), WriteError>| match failed {
            Err(WriteError::Rows(error)) => error.message,
            other => panic!("{other:?}"),
        };
        let mut written = 0;
        let encode = |batch: RecordBatch| match values(&batch)[0] {
            20 => Err(QueryError::invalid("row 20").into()),
            _ => Ok(()),
        };
        let failed = in_order(batches(), 1, 2, &encode, &mut |()| {
            written += 1;
            Ok(())
        });
        assert_eq!((message(failed).as_str(), written), ("row 20", 20));
        let broken: Batches = Box::new(batches().chain([Err(QueryError::data("torn"))]));
        assert_eq!(message(in_order(broken, 1, 2, &|_| Ok(()), &mut |()| Ok(()))), "torn");
        let panics = |batch: RecordBatch| -> Result<(), WriteError> { panic!("row {}", values(&batch)[0]) };
        let failed = message(in_order(batches(), 1, 2, &panics, &mut |()| Ok(())));
        assert!(failed.contains("row 0"), "{failed}");
    }

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for threads in [1, 2, 9] {
            let items: Vec<usize> = (0..50).collect();
            let done = for_each(items, threads, &|item| Ok(item * 2)).unwrap();
            assert_eq!(done, (0..50).map(|item| item * 2).collect::<Vec<_>>());
            let failed = for_each((0..50).collect(), threads, &|item: usize| match item {
                7 => Err(WriteError::from(QueryError::invalid("item 7"))),
                _ => Ok(()),
            });
            assert!(matches!(failed, Err(WriteError::Rows(error)) if error.message == "item 7"));
        }
    }
}

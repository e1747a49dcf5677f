use std::io;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;
use futures_util::stream::{FuturesOrdered, StreamExt};

use super::source::Source;
use super::{Error, ExportOptions, Exported, Observer, Progress, Which};
use crate::device::Device;

/// The most that is read, and written, at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Pieces that are read ahead.
const AHEAD: usize = 8;

/// Takes bytes in their order and never goes back: a pipe, a socket.
#[allow(async_fn_in_trait, reason = "tasks live on one thread: their futures need not be Send")]
pub trait Sink {
    /// Takes all of `bytes`, or fails.
    ///
    /// # Errors
    ///
    /// Any error of what it writes to.
    async fn take(&mut self, bytes: Bytes) -> io::Result<()>;
}

/// Hands the snapshot's content to `sink`, from the first byte to the last; holes as zeroes.
///
/// # Errors
///
/// Before anything is handed over: what [`export`](super::export) refuses. Later: any error of a device
/// or of the sink, or [`Error::Stopped`]; what was handed over until then is the beginning of the image.
pub async fn stream<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    sink: &mut impl Sink,
    options: ExportOptions,
    observer: &impl Observer,
) -> Result<Exported, Error> {
    let source = Source::new((cow, Which::Cow), origin, options).await?;
    let zeroes = Bytes::from(vec![0; usize::try_from(PIECE_BYTES).unwrap_or(0)]);
    let mut out = Out { sink, observer, done: 0, total: source.image_bytes };
    let mut ahead = FuturesOrdered::new();
    for segment in source.segments() {
        let mut position = 0;
        while position < segment.len {
            let data = source.next_data(segment, position).await?;
            let data = data.unwrap_or(segment.len..segment.len);
            let hole = segment.part(position, data.start - position);
            for piece in hole.pieces(PIECE_BYTES) {
                let len = usize::try_from(piece.len).unwrap_or(0);
                ahead.push_back(ready(Ok(zeroes.slice(..len))).left_future());
                out.keep_up(&mut ahead).await?;
            }
            for piece in segment.part(data.start, data.end - data.start).pieces(PIECE_BYTES) {
                ahead.push_back(source.read(piece).right_future());
                out.keep_up(&mut ahead).await?;
            }
            position = data.end;
        }
    }
    while let Some(bytes) = ahead.next().await {
        out.take(bytes?).await?;
    }
    Ok(Exported {
        image_bytes: source.image_bytes,
        written_bytes: source.image_bytes,
        exceptions: source.exceptions,
        ..Exported::default()
    })
}

/// The sink, and how far it is.
struct Out<'a, S, P> {
    sink: &'a mut S,
    observer: &'a P,
    done: u64,
    total: u64,
}

impl<S: Sink, P: Observer> Out<'_, S, P> {
    /// Hands over what was read first, once enough is on its way.
    async fn keep_up<F: Future<Output = Result<Bytes, Error>>>(
        &mut self,
        ahead: &mut FuturesOrdered<F>,
    ) -> Result<(), Error> {
        if ahead.len() < AHEAD {
            return Ok(());
        }
        match ahead.next().await {
            Some(bytes) => self.take(bytes?).await,
            None => Ok(()),
        }
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let len = bytes.len() as u64;
        self.observer.pace(len).await;
        let doing = format!("cannot write at byte {}", self.done);
        self.sink.take(bytes).await.map_err(Error::io(Which::Output, doing))?;
        self.done += len;
        self.observer.progress(Progress { done: self.done, total: self.total });
        Ok(())
    }
}

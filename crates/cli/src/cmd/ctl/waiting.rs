use std::time::Duration;

use compio::time::sleep;
use dmsnap::ops::{Observer, Progress};
use dmsnap_serve::control::{Client, ClientError};
use dmsnap_serve::{MergePhase, MergeProgress};

use crate::progress::Watch;
use crate::report::Failure;

/// How often the server is asked.
const NAP: Duration = Duration::from_millis(100);

/// How the waiting ended.
pub(super) enum Ended {
    /// Nothing is left to merge.
    Finished(MergeProgress),
    /// Something is left, and this is why.
    Otherwise(String),
    /// The server says no more.
    Lost(ClientError),
}

/// Waits for a merge to end, and shows how far it is.
pub(super) async fn wait(
    client: Client<'_>,
    mut merge: MergeProgress,
    progress: bool,
) -> Result<Ended, Failure> {
    let watch = Watch::new(progress, None)?;
    let name = merge.snapshot.clone();
    loop {
        let (total, left) = (merge.bytes_total, merge.bytes_left);
        watch.progress(Progress { done: total.saturating_sub(left), total });
        let otherwise = |found: &str| Ok(Ended::Otherwise(found.into()));
        match merge.state {
            MergePhase::Finished => return Ok(Ended::Finished(merge)),
            MergePhase::Paused => return otherwise("the merge was paused"),
            MergePhase::Failed => {
                let why = merge.error.unwrap_or_default();
                return Ok(Ended::Otherwise(format!("the merge has failed: {why}")));
            }
            MergePhase::Running | MergePhase::Pausing => {}
        }
        if watch.stop().requested() {
            return otherwise("no longer waited for; the merge goes on");
        }
        sleep(NAP).await;
        merge = match client.merge().await {
            Ok(merge) if merge.snapshot == name => merge,
            Ok(_) => return otherwise("the merge was given up, and another one started"),
            Err(ClientError::Refused(_)) => return otherwise("the merge was given up"),
            Err(error) => return Ok(Ended::Lost(error)),
        };
    }
}

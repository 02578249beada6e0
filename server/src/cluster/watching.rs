//! Behind a clustered start: whether the engine still proves itself, once a minute. A server that was started again may not sync any more.

use std::time::Duration;

use banter_engine::{Connection, Founding, gate};

use super::ClusterView;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How soon again where something new is wrong: what is gone by then was a server that was slow, or a leader that changed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Looks until the runtime ends. Nothing is stopped for what it finds: what is served goes on, and an operator is told.
pub async fn watch(
    connection: Connection,
    monitoring: Vec<String>,
    append_bytes_max: u64,
    founding: Founding,
    view: ClusterView,
) {
    let mut doubt = Doubt::default();
    let mut pause = LOOK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let (health, faults) = gate::prove(&connection, &monitoring, append_bytes_max).await;
        let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        if health.streams.as_ref().is_ok_and(|streams| streams.founding.cluster_id != founding.cluster_id) {
            lines.push("the cluster's streams were made anew under its name: start this node again".to_owned());
        }
        pause = if lines.is_empty() || doubt.is_known() { LOOK_EVERY } else { LOOK_AGAIN };
        if !doubt.look(&lines) {
            continue;
        }
        if lines.is_empty() {
            tracing::info!(event = "cluster_proved", "the engine proves itself again");
        } else {
            let listed = lines.join("\n- ");
            tracing::error!(
                event = "cluster_unproved",
                "the engine does not prove any more that it keeps what it acknowledges; this node goes on, and would not start again:\n- {listed}"
            );
        }
        view.say(|seen| seen.unproved = lines);
    }
}

/// What was found wrong, and whether anybody was told.
#[derive(Debug, Default)]
struct Doubt {
    told: Vec<String>,
    was_wrong: bool,
}

impl Doubt {
    /// Whether what is wrong was told.
    fn is_known(&self) -> bool {
        !self.told.is_empty()
    }

    /// Whether to tell what was found now: at once if it is well again, and else if it was not well the last time either.
    fn look(&mut self, found: &[String]) -> bool {
        let was_wrong = std::mem::replace(&mut self.was_wrong, !found.is_empty());
        let is_told = self.told != found && (found.is_empty() || was_wrong);
        if is_told {
            self.told = found.to_vec();
        }
        is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_once_is_not_told_and_what_stays_wrong_is_told_once() {
        let (mut doubt, slow, off) = (Doubt::default(), ["s1 is silent".to_owned()], ["s2 does not sync".to_owned()]);
        assert!(!doubt.look(&[]), "all is well");
        assert!(!doubt.look(&slow) && !doubt.is_known(), "it may pass");
        assert!(!doubt.look(&[]), "it has passed");
        assert!(!doubt.look(&slow), "it may pass again");
        assert!(doubt.look(&off) && doubt.is_known(), "something is wrong for two looks: what is so now is told");
        assert!(!doubt.look(&off), "told already");
        assert!(doubt.look(&slow), "something else");
        assert!(doubt.look(&[]) && !doubt.is_known(), "well again");
        assert!(!doubt.look(&off), "a new fault may pass, too");
    }
}

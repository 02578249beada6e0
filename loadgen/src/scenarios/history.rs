//! `history`: readers scroll back through filled rooms beside a live load.

use crate::args::History;
use crate::fanout::room_names;
use crate::fault::LoadFault;
use crate::run::Run;
use crate::sheet::{Maker, Merging, Promise, Unit};
use crate::watch::{self, Phase, Turned};
use crate::{opening, output, process};

use super::fetchers::{Fetchers, Scroll};
use super::storm::live_shape;

/// Runs the job. True when every page held what stands there, and the live members got everything.
///
/// # Errors
/// When the run could not be made.
pub fn run(job: &History) -> Result<bool, LoadFault> {
    let (target, plan) = (&job.target, job.live.plan("history"));
    let live_members = plan.rooms as usize * plan.members as usize;
    opening::prepare(target, live_members + job.fetchers.max(job.history_rooms) as usize)?;
    target.pid.map(process::cpu_of).transpose()?;
    let scroll = Scroll {
        count: job.fetchers as usize,
        messages: job.messages,
        payload_bytes: job.live.payload,
        pages_per_s: job.pages,
        page_messages_max: job.page,
    };
    let history_rooms = room_names(&format!("{}-history", target.room_prefix), job.history_rooms);
    let mut fetchers = Fetchers::open(target, history_rooms, scroll)?;
    let rooms = room_names(&target.room_prefix, plan.rooms);
    let mut live = Run::open_beside(target, &plan, &rooms)?;

    watch::phase(&mut live, "warm-up", job.live.warmup, &mut watch::nothing)?;
    let before = watch::phase(&mut live, "before", job.live.before, &mut watch::nothing)?;
    fetchers.begin();
    let during = watch::phase(&mut live, "scroll", job.duration, &mut |_| fetchers.turn().map(Turned::On))?;
    live.drain()?;
    fetchers.finish()?;
    live.load.finish();
    output::tell(target, &sheet(job, [&before, &during], &live, &fetchers).finish())
}

fn sheet(job: &History, phases: [&Phase; 2], live: &Run<'_>, fetchers: &Fetchers) -> Maker {
    let question = "How long does a page of history take, and what do live rooms feel of those who scroll back?";
    let mut maker = watch::maker(&job.target, "history", question, &phases);
    let (count, rooms, messages) = (job.fetchers, job.history_rooms, job.messages);
    maker.shape(format!("{count} readers scroll back through {rooms} rooms of {messages} messages each"));
    maker.shape(format!("{} pages/s by the clock, {} messages a page at most", job.pages, job.page));
    maker.shape(live_shape(&job.live));
    maker.latencies("page", "ask to page", fetchers.latencies());
    tell(&mut maker, fetchers);
    maker.load("live members", &live.load);
    maker.samples(&live.sampler.samples);
    maker
}

/// What they read, and what was checked of it.
pub fn tell(maker: &mut Maker, fetchers: &Fetchers) {
    let (pages, messages, walks) = fetchers.counts();
    let mut count = |name: &str, label: &str, value: u64| {
        maker.figure(name, label, value as f64, Unit::Count, Promise::Stands, Merging::Sum);
    };
    count("pages", "pages", pages);
    count("page_messages", "messages in them", messages);
    count("walks", "walks to the first message", walks);
    maker.check("pages, each with what stands there", fetchers.asked, pages);
    maker.verifier("those who scroll back", fetchers.verifier());
}

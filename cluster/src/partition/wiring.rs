//! What the machines of a partition want: each thing goes to the next machine, to the engine, or to the node.

use super::{Closing, GENERATION_SHIFT, Open, Out, PURPOSE_SHIFT, Partition, Purpose, Stage};
use crate::appends;
use crate::cache::EngineCache;
use crate::engine::{Ask, Ticket};
use crate::keeping;
use crate::loading;
use crate::store;

impl Partition {
    pub(super) fn appends(&mut self, input: appends::Input, unix_ms: u64, cache: &mut EngineCache, out: &mut Vec<Out>) {
        let mut follows = Vec::new();
        self.appends.handle(input, &mut follows);
        for follow in follows {
            match follow {
                appends::Out::Ask(ask) => out.push(Out::Ask(self.tagged(ask, Purpose::Appends))),
                appends::Out::WakeIn(ms) => out.push(Out::WakeIn(ms)),
                appends::Out::Claimed { term } => self.claimed(term, unix_ms, cache, out),
                appends::Out::Done { token, sequence } => self.done(token, sequence, unix_ms, cache, out),
                appends::Out::Full(token, said) => self.full(token, said, unix_ms, cache, out),
                appends::Out::Doubtful => {
                    self.is_doubtful = true;
                    out.push(Out::Doubtful(true));
                }
                appends::Out::Lost { by } => self.close(Stage::Foreign, Closing::Lost { by }, out),
                appends::Out::Broken(fault) => self.broken(fault.into(), out),
            }
        }
    }

    pub(super) fn loading_outs(
        &mut self,
        follows: Vec<loading::Out>,
        unix_ms: u64,
        cache: &mut EngineCache,
        out: &mut Vec<Out>,
    ) {
        for follow in follows {
            match follow {
                loading::Out::Ask(ask) => out.push(Out::Ask(self.tagged(ask, Purpose::Loading))),
                loading::Out::WakeIn(ms) => out.push(Out::WakeIn(ms)),
                loading::Out::Doubt => self.appends(appends::Input::Doubt, unix_ms, cache, out),
                loading::Out::Broken(fault) => self.broken(fault, out),
                loading::Out::Loaded(loaded) => self.loaded(loaded, unix_ms, cache, out),
            }
        }
    }

    pub(super) fn store_outs(
        &mut self,
        follows: Vec<store::Out>,
        unix_ms: u64,
        cache: &mut EngineCache,
        out: &mut Vec<Out>,
    ) {
        for follow in follows {
            match follow {
                store::Out::Push(token, said) => {
                    self.appends(appends::Input::Push(token, said), unix_ms, cache, out);
                }
                store::Out::Ask(ask) => out.push(Out::Ask(self.tagged(ask, Purpose::Store))),
                store::Out::Disk(answer) => out.push(Out::Disk(answer)),
                store::Out::WakeIn(ms) => out.push(Out::WakeIn(ms)),
                store::Out::LetGo(index) => out.push(Out::LetGo(index)),
                store::Out::Kept { segment, index } => {
                    let standing = self.reader_standing();
                    let mut kept = Vec::new();
                    if let Stage::Open(open) = &mut self.stage {
                        let Open { store, keeping, .. } = &mut **open;
                        let parts = index.parts().copied().collect();
                        keeping.kept(segment, parts, store, &standing, &mut kept);
                    }
                    self.keeping_outs(kept, unix_ms, cache, out);
                    out.push(Out::LetGo(index));
                }
                store::Out::Released { segment, bytes } => {
                    let standing = self.reader_standing();
                    let mut kept = Vec::new();
                    if let Stage::Open(open) = &mut self.stage {
                        open.keeping.released(segment, bytes, &open.store, &standing, &mut kept);
                    }
                    self.keeping_outs(kept, unix_ms, cache, out);
                    self.purge(out);
                }
            }
        }
    }

    pub(super) fn keeping_outs(
        &mut self,
        follows: Vec<keeping::Out>,
        unix_ms: u64,
        cache: &mut EngineCache,
        out: &mut Vec<Out>,
    ) {
        for follow in follows {
            match follow {
                keeping::Out::Ask(ask) => out.push(Out::Ask(self.tagged(ask, Purpose::Keeping))),
                keeping::Out::WakeIn(ms) => out.push(Out::WakeIn(ms)),
                keeping::Out::Doubt => self.appends(appends::Input::Doubt, unix_ms, cache, out),
            }
        }
    }

    pub(super) fn purge(&mut self, out: &mut Vec<Out>) {
        let Stage::Open(open) = &mut self.stage else { return };
        if let Some(first) = open.keeping.purge_to(&open.store) {
            let purge = Ask::Purge { partition: self.stream.partition, ticket: Ticket(1), first };
            out.push(Out::Ask(self.tagged(purge, Purpose::Own)));
        }
    }

    /// The ask, with a ticket that says whose it is.
    pub(super) fn tagged(&self, ask: Ask, purpose: Purpose) -> Ask {
        let tag = (purpose as u64) << PURPOSE_SHIFT | self.generation << GENERATION_SHIFT;
        ask.with_ticket(|Ticket(ticket)| Ticket(ticket | tag))
    }
}

//! Those who are connected to the control socket: further processes of the container, and whoever asks.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use guest_protocol::message::{ContainerId, Exit, Failure, Plan, ProcessId, Reply, Request, Streams, feature};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use vmm::SnapshotFiles;

use super::members::Life;
use super::streams::Attached;
use super::{Asked, Process, Stage, WENT_ON, start, too_long};
use crate::container::CONTAINER;
use crate::control::{Decoder, FromMachine, Hello, LAYERS_MAX, Saved, ToMachine, VERSION, frame, is_for_others};
use crate::error::{Error, Result};

/// Connections at once; more wait.
const MOST: usize = 256;
/// Answers that wait for one who does not read; then nothing more is read of its requests.
const WAITING_MAX: usize = 1 << 20;

/// A connection.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    decoder: Decoder,
    /// It has said hello.
    greeted: bool,
    /// The process that it stands for.
    process: Option<ProcessId>,
    /// The machine rests for it.
    holds: bool,
    /// The container that is held still for it.
    freezes: Option<ContainerId>,
    /// The container of its process.
    container: ContainerId,
    /// Layers of the container that it will stand for.
    layers: Vec<OwnedFd>,
    /// The file system of containers that come stays for it.
    keeps_files: bool,
    out: Vec<u8>,
}

/// All connections, by numbers that are never used again.
#[derive(Debug)]
pub(super) struct Clients {
    listener: OwnedFd,
    last: u64,
    open: BTreeMap<u64, Client>,
}

impl Clients {
    /// Listens at a path, where what an earlier process left is taken away.
    pub(super) fn listen(path: &Path) -> Result<Self> {
        let failed = |tried| Error::system(tried, path.display().to_string());
        let _ = fs::remove_file(path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("make"))?;
        let address = SocketAddrUnix::new(path).map_err(failed("name a socket"))?;
        rustix::net::bind(&listener, &address).map_err(failed("make the socket"))?;
        rustix::net::listen(&listener, 64).map_err(failed("listen at"))?;
        Ok(Self { listener, last: 0, open: BTreeMap::new() })
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// What is waited for of each.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, PollFlags)> {
        self.open.iter().map(|(number, client)| {
            let reads = if client.out.len() < WAITING_MAX { PollFlags::IN } else { PollFlags::empty() };
            let writes = if client.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            (*number, client.socket.as_fd(), reads | writes)
        })
    }

    pub(super) fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        if self.open.len() == MOST {
            // Told by its end.
            return;
        }
        self.last += 1;
        let client = Client {
            socket,
            decoder: Decoder::default(),
            greeted: false,
            process: None,
            holds: false,
            freezes: None,
            container: CONTAINER,
            layers: Vec::new(),
            keeps_files: false,
            out: Vec::new(),
        };
        self.open.insert(self.last, client);
    }

    pub(super) fn send(&mut self, number: u64, message: &impl serde::Serialize) {
        let Some(client) = self.open.get_mut(&number) else { return };
        match frame(message) {
            Ok(bytes) => {
                client.out.extend(bytes);
                self.flush(number);
            }
            // Longer than it can be: whoever waits is told by the end.
            Err(_) => drop(self.open.remove(&number)),
        }
    }

    fn flush(&mut self, number: u64) {
        let Some(client) = self.open.get_mut(&number) else { return };
        while !client.out.is_empty() {
            match rustix::net::send(&client.socket, &client.out, SendFlags::NOSIGNAL) {
                Ok(count) => drop(client.out.drain(..count)),
                Err(Errno::INTR) => {}
                // Whoever is gone is seen by the end of what it sends.
                Err(_) => return,
            }
        }
    }

    /// The machine rests for one of them.
    pub(super) fn hold(&self) -> bool {
        self.open.values().any(|client| client.holds)
    }

    /// A container is held still for one of them.
    pub(super) fn freezes(&self, container: ContainerId) -> bool {
        self.open.values().any(|client| client.freezes == Some(container))
    }

    /// The file system of containers that come stays for a client.
    pub(super) fn keep_files(&mut self, number: u64) {
        if let Some(client) = self.open.get_mut(&number) {
            client.keeps_files = true;
        }
    }

    /// It stays for one of them.
    pub(super) fn keeps_files(&self) -> bool {
        self.open.values().any(|client| client.keeps_files)
    }

    /// The descriptors that came along with a client's message.
    pub(super) fn take_fds(&mut self, number: u64) -> Vec<OwnedFd> {
        self.open.get_mut(&number).map(|client| client.decoder.take_fds()).unwrap_or_default()
    }

    /// The layers that a client has sent, and what else it has.
    pub(super) fn take_layers(&mut self, number: u64) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
        let Some(client) = self.open.get_mut(&number) else { return (Vec::new(), Vec::new()) };
        (std::mem::take(&mut client.layers), client.decoder.take_fds())
    }

    /// A client stands for a process of a container from now on.
    pub(super) fn stand_for(&mut self, number: u64, process: ProcessId, container: ContainerId) {
        if let Some(client) = self.open.get_mut(&number) {
            (client.process, client.container) = (Some(process), container);
        }
    }

    /// Whether somebody stands for a process.
    pub(super) fn stands_for(&self, process: ProcessId) -> bool {
        self.of(process).is_some()
    }

    fn of(&self, process: ProcessId) -> Option<u64> {
        self.open.iter().find(|(_, client)| client.process == Some(process)).map(|(number, _)| *number)
    }

    /// Says what came of a question.
    pub(super) fn answer(&mut self, number: u64, result: Result<Reply, Failure>) {
        self.send(number, &FromMachine::Answer(result));
    }

    /// Says what came of a change of the network.
    pub(super) fn networked(&mut self, number: u64, result: Result<(), Failure>) {
        self.send(number, &FromMachine::Networked(result));
    }

    /// Says that a process runs. `false`: nobody is there who wants it to.
    pub(super) fn started(&mut self, process: ProcessId, warnings: Vec<String>) -> bool {
        let Some(number) = self.of(process) else { return false };
        self.send(number, &FromMachine::Started(warnings));
        true
    }

    /// Says that a process could not be started.
    pub(super) fn refused(&mut self, process: ProcessId, failure: Failure) {
        if let Some(number) = self.of(process) {
            self.send(number, &FromMachine::Refused(failure));
        }
    }

    /// Says how a process ended.
    pub(super) fn exited(&mut self, process: ProcessId, exit: Exit) {
        if let Some(number) = self.of(process) {
            self.send(number, &FromMachine::Exited(exit));
        }
    }
}

impl Process {
    /// Something came of a client, or there is room for what it is to be told.
    // Its variables are none of the stack of a turn that waits.
    #[inline(never)]
    pub(super) fn on_client(&mut self, number: u64) -> Result<()> {
        self.clients.flush(number);
        let Some(client) = self.clients.open.get_mut(&number) else { return Ok(()) };
        let is_gone = match client.decoder.read(client.socket.as_fd(), RecvFlags::DONTWAIT) {
            Ok(count) => count == Some(0),
            Err(_) => true,
        };
        loop {
            let Some(client) = self.clients.open.get_mut(&number) else { return Ok(()) };
            if !client.greeted {
                match client.decoder.next::<Hello>() {
                    Ok(Some(_)) => {
                        // Whoever speaks another version says so, and goes.
                        client.greeted = true;
                        self.clients.send(number, &Hello { version: VERSION });
                        continue;
                    }
                    Ok(None) => break,
                    Err(_) => return self.close(number),
                }
            }
            match client.decoder.next::<ToMachine>() {
                Ok(Some(message)) => self.on_wish(number, message)?,
                Ok(None) => break,
                Err(_) => return self.close(number),
            }
            if self.ends_as_saved {
                return Ok(());
            }
        }
        if is_gone { self.close(number) } else { Ok(()) }
    }

    /// Whoever stood for a process takes it along.
    pub(super) fn close(&mut self, number: u64) -> Result<()> {
        let client = self.clients.open.remove(&number);
        self.give_up_network(number);
        if client.as_ref().is_some_and(|client| client.holds) && !self.clients.hold() {
            // Whoever finds the machine ended later knows by this that it was not as it was saved any more.
            let _ = fs::write(self.went_on(), []);
            self.machine.resume()?;
        }
        if let Some(container) = client.as_ref().and_then(|client| client.freezes)
            && !self.clients.freezes(container)
        {
            self.thaw(container)?;
        }
        // It may have stayed for that one alone, or for as long as the machine rested.
        self.let_unused_files_go();
        let process = client.and_then(|client| client.process);
        let runs = |attached: &Attached| attached.started && attached.exit.is_none();
        match process.filter(|process| self.attached.get(process).is_some_and(runs)) {
            Some(process) => self.signal(process, super::KILL),
            None => Ok(()),
        }
    }

    fn on_wish(&mut self, number: u64, wish: ToMachine) -> Result<()> {
        let process = self.clients.open.get(&number).and_then(|client| client.process);
        match (wish, process) {
            (ToMachine::Run { container, plan, streams }, None) => {
                self.on_run(number, container, Plan::Exec(plan), streams)
            }
            (ToMachine::Layer, None) => self.on_layer(number),
            (ToMachine::Join(join), None) => self.on_join(number, *join),
            (ToMachine::Signal(signal), Some(process)) => {
                if self.members.is_first(process) {
                    // Whoever is held still hears of nothing.
                    let container = self.clients.open.get(&number).map_or(CONTAINER, |client| client.container);
                    self.let_go(container)?;
                }
                self.signal(process, signal)
            }
            (ToMachine::Resize(size), Some(process)) => self.ask(Request::Resize { process, size }, Asked::Nobody),
            (ToMachine::Save, _) => self.on_save(number),
            (ToMachine::End, _) if self.clients.open.get(&number).is_some_and(|client| client.holds) => {
                self.ends_as_saved = true;
                Ok(())
            }
            (ToMachine::Ask(Request::Freeze { container, frozen }), _) if self.host.is_connected() => {
                self.on_freeze(number, container, frozen)
            }
            (ToMachine::Touched, _) => {
                self.clients.send(number, &FromMachine::Touched(self.machine.touched()));
                Ok(())
            }
            (ToMachine::Memory(memory), _) => {
                let resized = self.have_memory(memory).map_err(|error| Failure::Refused { why: error.to_string() });
                self.clients.send(number, &FromMachine::Resized(resized));
                Ok(())
            }
            (ToMachine::MemoryFor(container, bytes), _) => {
                let resized = self.have_memory_for(container, bytes);
                self.clients.send(number, &FromMachine::Resized(resized));
                Ok(())
            }
            (ToMachine::Pause(container, paused), _) => self.on_pause(number, container, paused),
            (ToMachine::KeepFiles, None) => {
                self.on_keep_files(number);
                Ok(())
            }
            (ToMachine::Files(server), None) => self.on_files(number, server),
            (ToMachine::Kill(container), None) => self.on_kill(number, container),
            (ToMachine::Network(wish), None) => self.on_network(number, *wish),
            (ToMachine::Ask(Request::Memory { .. }), _) if !self.can(feature::MEMORY) => {
                let why =
                    "what its memory is in the microVM's agent does not tell: it is of an earlier build, or boots";
                self.clients.answer(number, Err(Failure::Refused { why: why.to_owned() }));
                Ok(())
            }
            (ToMachine::Ask(request), _) if is_for_others(&request) => match self.host.is_connected() {
                true => self.ask(request, Asked::Client(number)),
                false => {
                    let why = "the microVM is still booting".to_owned();
                    self.clients.answer(number, Err(Failure::Refused { why }));
                    Ok(())
                }
            },
            _ => self.close(number),
        }
    }

    /// Kills a container's process inside, unless it has ended and the guest writes already.
    fn on_kill(&mut self, number: u64, container: ContainerId) -> Result<()> {
        let life = match (self.stage, container) {
            // With the machine all of them end, once the guest has written.
            (Stage::ShuttingDown(_), _) => Some(Life::Ends),
            (Stage::Running, CONTAINER) => Some(Life::Runs(self.main)),
            (Stage::Running, container) => self.members.life(container),
            _ => None,
        };
        match life {
            Some(Life::Runs(process)) if self.host.is_connected() && !self.clients.hold() => {
                // What is held still would be killed when it goes on.
                self.let_go(container)?;
                self.signal(process, super::KILL)?;
            }
            Some(Life::Ends) => {}
            _ => return self.close(number),
        }
        self.clients.answer(number, Ok(Reply::Done));
        Ok(())
    }

    /// Holds a container still for a client, or not any more. It goes on when nobody wants it held: also where whoever did is gone.
    fn on_freeze(&mut self, number: u64, container: ContainerId, frozen: bool) -> Result<()> {
        let is_another = |other: &u64, client: &Client| *other != number && client.freezes == Some(container);
        let by_others = self.clients.open.iter().any(|(other, client)| is_another(other, client));
        let Some(client) = self.clients.open.get_mut(&number) else { return Ok(()) };
        if client.freezes.is_some_and(|held| held != container) {
            // One at a time.
            return self.close(number);
        }
        client.freezes = frozen.then_some(container);
        match by_others || self.members.is_paused(container) {
            true => {
                self.clients.answer(number, Ok(Reply::Done));
                Ok(())
            }
            false => self.ask(Request::Freeze { container, frozen }, Asked::Client(number)),
        }
    }

    /// Lets a container go on, whoever holds it still.
    pub(super) fn let_go(&mut self, container: ContainerId) -> Result<()> {
        if !self.clients.freezes(container) {
            return Ok(());
        }
        let of_it = self.clients.open.values_mut().filter(|client| client.freezes == Some(container));
        of_it.for_each(|client| client.freezes = None);
        self.thaw(container)
    }

    /// Has a container's processes go on, now or when the agent is there again; but not those of one that is paused.
    pub(super) fn thaw(&mut self, container: ContainerId) -> Result<()> {
        if self.members.is_paused(container) {
            return Ok(());
        }
        self.ask(Request::Freeze { container, frozen: false }, Asked::Thaw(container))
    }

    /// A layer of the container that a client will stand for.
    fn on_layer(&mut self, number: u64) -> Result<()> {
        let Some(client) = self.clients.open.get_mut(&number) else { return Ok(()) };
        match <[OwnedFd; 1]>::try_from(client.decoder.take_fds()) {
            Ok([layer]) if client.layers.len() < LAYERS_MAX => {
                client.layers.push(layer);
                Ok(())
            }
            _ => self.close(number),
        }
    }

    /// The file that is there once the machine has gone on after it was saved.
    fn went_on(&self) -> PathBuf {
        self.plan.control.with_file_name(WENT_ON)
    }

    /// Saves the machine, which rests then as long as the client is there. Nothing else is done meanwhile: the guest does nothing either.
    fn on_save(&mut self, number: u64) -> Result<()> {
        let Ok([state, memory]) = <[OwnedFd; 2]>::try_from(self.clients.take_fds(number)) else {
            return self.close(number);
        };
        if let Some(why) = self.keeps_from_saving()? {
            let refused = FromMachine::Saved(Err(Failure::Refused { why }));
            self.clients.send(number, &refused);
            return Ok(());
        }
        let Some(client) = self.clients.open.get_mut(&number) else { return Ok(()) };
        client.holds = true;
        let _ = fs::remove_file(self.went_on());
        let into = SnapshotFiles { state: state.into(), memory: memory.into() };
        let outputs = self.host.taken_of(self.main).unwrap_or_default();
        let saved = self.machine.save(&into).map(|extent| {
            let hardware = &self.plan.hardware;
            let (memory, most_memory) = (hardware.memory, hardware.most_memory);
            let cards = hardware.cards.iter().map(|place| place.as_ref().map(|card| card.mac)).collect();
            let files_place = hardware.files_place;
            let (vcpus, processor) = (hardware.vcpus, hardware.processor);
            Saved { extent, vcpus, processor, memory, most_memory, cards, files_place, outputs }
        });
        let saved = saved.map_err(|error| Failure::Refused { why: error.to_string() });
        // Whoever hears of it has nobody write to them any more.
        drop(into);
        self.clients.send(number, &FromMachine::Saved(saved));
        Ok(())
    }

    /// Why the machine can't be saved, if it can't.
    fn keeps_from_saving(&mut self) -> Result<Option<String>> {
        let lacking = self.files.as_ref().and_then(|files| files.knows_files_again().err());
        let refused = match (self.stage, lacking) {
            (Stage::Running | Stage::Waiting, _) if !self.plan.is_saved_whole() => Some(Error::NotSaved.to_string()),
            (Stage::Running | Stage::Waiting, lacking) => lacking.map(|error| error.to_string()),
            _ => Some("the container's process does not run".to_owned()),
        };
        match refused.or(self.cards.keep_from_saving().map(str::to_owned)) {
            Some(why) => Ok(Some(why)),
            // The last, as for that something goes which may not come again.
            None => Ok(self.members_keep_from_saving()?.map(str::to_owned)),
        }
    }

    fn on_run(&mut self, number: u64, container: ContainerId, plan: Plan, streams: Streams) -> Result<()> {
        let refused = |why: &str| FromMachine::Refused(Failure::Refused { why: why.to_owned() });
        let fds = self.clients.take_fds(number);
        if self.stage != Stage::Running {
            self.clients.send(number, &refused("the container's process does not run"));
            return Ok(());
        }
        let Some((stdin, outputs)) = descriptors(streams, fds) else { return self.close(number) };
        let Some(process) = self.next_process() else {
            self.clients.send(number, &refused("the microVM has had as many processes as it can: restart it"));
            return Ok(());
        };
        self.clients.stand_for(number, process, container);
        self.attached.insert(process, Attached::new(process, stdin, outputs));
        match self.ask(start(process, container, plan, streams), Asked::Start(process)) {
            Err(Error::TooLong(_)) => {
                self.attached.remove(&process);
                self.clients.refused(process, too_long());
                Ok(())
            }
            asked => asked,
        }
    }
}

/// Standard input and the outputs, of what came along.
pub(super) fn descriptors(streams: Streams, fds: Vec<OwnedFd>) -> Option<(Option<OwnedFd>, [Option<OwnedFd>; 2])> {
    let mut fds = fds.into_iter();
    match streams {
        Streams::Terminal { .. } => {
            let terminal = fds.next()?;
            let output = rustix::io::fcntl_dupfd_cloexec(&terminal, 3).ok()?;
            Some((Some(terminal), [Some(output), None]))
        }
        Streams::Pipes { stdin } => {
            let input = fds.next()?;
            Some((stdin.then_some(input), [Some(fds.next()?), Some(fds.next()?)]))
        }
    }
}

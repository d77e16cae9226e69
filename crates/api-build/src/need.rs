//! What the daemon opens a stream for. The first line says what it is; the client's first line says whether it has it.

use crate::mux::{Opener, Stream};
use crate::wire;
use build::LayoutFile;
use bytes::Bytes;
use futures_util::stream;
use image::Digest;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// What is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Need {
    /// A directory's files: a list, then those of which the contents are wanted (`entry`). With no name it is the build's own context.
    Context {
        /// A named context.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// An archive, in pieces.
    Archive {},
    /// What is in a secret, in pieces.
    Secret {
        /// Its id.
        id: String,
    },
    /// What the client's user knows of a host's keys, in pieces.
    KnownHosts {
        /// The host, as `known_hosts` has it: with its port, where that is not the usual one.
        host: String,
    },
    /// A connection to an agent, as it is.
    Agent {
        /// Its id.
        id: String,
    },
    /// Something comes, in pieces; behind them the client says whether it is kept.
    Export {
        /// Which of those that were asked for.
        name: String,
    },
    /// A file of a directory that is an OCI layout, in pieces.
    Layout {
        /// Which of those that were named.
        name: String,
        /// Which file.
        file: LayoutFile,
    },
    /// Whether a blob of so many bytes is there. Nothing follows.
    LayoutHas {
        /// Which of the directories.
        name: String,
        /// Which blob.
        blob: Digest,
        /// How large it is.
        size: u64,
    },
    /// A file of such a directory comes, in pieces; behind them the client says whether it is kept.
    LayoutKeep {
        /// Which of the directories.
        name: String,
        /// Which file.
        file: LayoutFile,
    },
    /// The index of such a directory, in pieces, unless there is none.
    LayoutIndex {
        /// Which of the directories.
        name: String,
    },
    /// An index of such a directory comes, in pieces; behind them the client says whether it has taken the former one's place.
    LayoutReplace {
        /// Which of the directories.
        name: String,
        /// The digest of the former one; nothing, where there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        former: Option<Digest>,
    },
}

/// Whether it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Answer {
    /// It follows.
    Here,
    /// It does not.
    Not {
        /// Why.
        why: String,
    },
    /// There is none, or another one than was meant.
    Other {},
}

impl Answer {
    /// Whether it is there: `None`, where it is another or none; an error is one line for people.
    fn into_here(self) -> Result<Option<()>, String> {
        match self {
            Answer::Here => Ok(Some(())),
            Answer::Other {} => Ok(None),
            Answer::Not { why } => Err(why),
        }
    }
}

/// How long a client may take to say something that it has at hand.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Opens a stream and asks for something; an error is one line for people.
pub(crate) async fn ask(opener: &Opener, need: &Need) -> Result<BufReader<Stream>, String> {
    let failed = |e: io::Error| format!("asking the client: {e}");
    let mut stream = BufReader::new(opener.open().await.map_err(failed)?);
    wire::write(&mut stream, need).await.map_err(failed)?;
    answered(&mut stream).await?;
    Ok(stream)
}

/// Opens a stream and asks whether something is there; an error is one line for people.
pub(crate) async fn is_there(opener: &Opener, need: &Need) -> Result<bool, String> {
    let failed = |e: io::Error| format!("asking the client: {e}");
    let mut stream = BufReader::new(opener.open().await.map_err(failed)?);
    wire::write(&mut stream, need).await.map_err(failed)?;
    match answer(&mut stream).await? {
        Answer::Here => Ok(true),
        Answer::Not { .. } | Answer::Other {} => Ok(false),
    }
}

/// Opens a stream and asks for something that need not be there; an error is one line for people.
pub(crate) async fn ask_for_any(opener: &Opener, need: &Need) -> Result<Option<BufReader<Stream>>, String> {
    let failed = |e: io::Error| format!("asking the client: {e}");
    let mut stream = BufReader::new(opener.open().await.map_err(failed)?);
    wire::write(&mut stream, need).await.map_err(failed)?;
    Ok(answer(&mut stream).await?.into_here()?.map(|()| stream))
}

async fn answered(stream: &mut BufReader<Stream>) -> Result<(), String> {
    answer(stream).await?.into_here()?.ok_or_else(|| "it is not there".to_owned())
}

async fn answer(stream: &mut BufReader<Stream>) -> Result<Answer, String> {
    let answer = tokio::time::timeout(PATIENCE, wire::read(stream, wire::LINE)).await;
    match answer.map_err(|_| "the client does not answer".to_owned())? {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err("the client is gone".to_owned()),
        Err(error) => Err(format!("the client's answer: {error}")),
    }
}

/// Something on its way to the client: what a build is asked to export.
pub struct Outgoing {
    stream: BufReader<Stream>,
}

impl Outgoing {
    /// Begins one. `name` is what it was asked for as.
    ///
    /// # Errors
    /// One line for people: the client is gone, or does not want it.
    pub async fn begin(opener: &Opener, name: &str) -> Result<Outgoing, String> {
        Outgoing::answer(opener, &Need::Export { name: name.to_owned() }).await
    }

    /// Begins what the client is told of by a need.
    pub(crate) async fn answer(opener: &Opener, need: &Need) -> Result<Outgoing, String> {
        ask(opener, need).await.map(|stream| Outgoing { stream })
    }

    /// Sends bytes. Waits while the client does not take them.
    ///
    /// # Errors
    /// One line for people: the client is gone, or takes no more.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        for piece in bytes.chunks(wire::PIECE) {
            if let Err(error) = self.put(piece).await {
                return Err(self.why_not(&error).await);
            }
        }
        Ok(())
    }

    async fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        let length = u32::try_from(piece.len()).map_err(wire::refused)?;
        self.stream.write_all(&length.to_le_bytes()).await?;
        self.stream.write_all(piece).await
    }

    /// Why the client takes no more: what it said before it let go of the stream, if it did.
    async fn why_not(&mut self, error: &io::Error) -> String {
        match answer(&mut self.stream).await {
            Ok(Answer::Not { why }) => why,
            _ => format!("sending to the client: {error}"),
        }
    }

    /// That was all. Waits until the client has kept it.
    ///
    /// # Errors
    /// One line for people: the client is gone, or could not keep it.
    pub async fn finish(self) -> Result<(), String> {
        self.end().await?.ok_or_else(|| "the client has kept another".to_owned())
    }

    /// That was all. Waits until the client has kept it; `None`, where it is in the place of nothing that is there.
    pub(crate) async fn end(mut self) -> Result<Option<()>, String> {
        let sent = async {
            self.stream.write_all(&0_u32.to_le_bytes()).await?;
            self.stream.flush().await
        };
        if let Err(error) = sent.await {
            return Err(self.why_not(&error).await);
        }
        answer(&mut self.stream).await?.into_here()
    }
}

/// Something that the client has, as it comes. An error is one line for people.
pub(crate) fn pieces(stream: BufReader<Stream>) -> impl stream::Stream<Item = Result<Bytes, String>> + Send {
    stream::try_unfold(stream, |mut stream| async move {
        let read = async {
            let length = stream.read_u32_le().await? as usize;
            if length > wire::PIECE {
                return Err(wire::refused(format!("a piece of {length} bytes")));
            }
            let mut piece = vec![0; length];
            stream.read_exact(&mut piece).await?;
            Ok(Bytes::from(piece))
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        let piece = read.map_err(|_| "the client sends nothing".to_owned())?;
        let piece = piece.map_err(|e: io::Error| format!("receiving from the client: {e}"))?;
        Ok((!piece.is_empty()).then_some((piece, stream)))
    })
}

/// All of something short that the client has, of at most so many bytes.
pub(crate) async fn short(mut stream: BufReader<Stream>, most: usize) -> Result<Vec<u8>, String> {
    let read = async {
        let mut all = Vec::new();
        loop {
            let length = stream.read_u32_le().await? as usize;
            if length == 0 {
                return Ok(all);
            }
            if length > wire::PIECE || all.len() + length > most {
                return Err(wire::refused(format!("more than {most} bytes")));
            }
            let from = all.len();
            all.resize(from + length, 0);
            stream.read_exact(&mut all[from..]).await?;
        }
    };
    let read: Result<io::Result<Vec<u8>>, _> = tokio::time::timeout(PATIENCE, read).await;
    read.map_err(|_| "the client sends nothing".to_owned())?.map_err(|e| e.to_string())
}

//! Who a container's process runs as: the user database is read from its root file system.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::ContainerRecord;
use crate::spec::{Identity, UserDatabase};
use crate::{Engine, Result};

/// How many images' databases are kept in memory.
const KEPT: usize = 64;

/// User databases by image, as most containers do not change theirs.
#[derive(Default)]
pub(crate) struct UserCache(Mutex<HashMap<String, Arc<UserDatabase>>>);

impl Engine {
    /// Who `user` is in the container, with `groups` besides.
    pub(crate) fn identify(&self, record: &ContainerRecord, user: &str, groups: &[String]) -> Result<Identity> {
        self.user_database(record)?.identify(user, groups)
    }

    fn user_database(&self, record: &ContainerRecord) -> Result<Arc<UserDatabase>> {
        let own = self.writes_etc(&record.id);
        if !own && let Some(database) = self.0.users.0.lock().get(&record.image_id) {
            return Ok(database.clone());
        }
        let database = Arc::new(self.read_user_database(record)?);
        if !own {
            let mut cache = self.0.users.0.lock();
            if cache.len() >= KEPT {
                cache.clear();
            }
            cache.insert(record.image_id.clone(), database.clone());
        }
        Ok(database)
    }
}

//! `rename`

use crate::{Engine, Error, Result};

use super::names;

impl Engine {
    /// Gives a container another name.
    pub async fn rename(&self, reference: &str, new_name: &str) -> Result<()> {
        if reference.is_empty() || new_name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        let old = life.record();
        let new_name = names::check(new_name)?;
        if old.name == new_name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let reservation = self.0.containers.reserve(new_name, &life.id);
        let reservation = reservation.map_err(|error| error.context("Error when allocating new name"))?;
        let record = self
            .change(&life, |record| {
                new_name.clone_into(&mut record.name);
                if let Some(net) = &mut record.net {
                    self.0.networks.rename(net, new_name);
                }
            })
            .await?;
        reservation.keep();
        self.0.containers.release(&old.name);
        self.tell_container(&record, "rename", [("oldName", format!("/{}", old.name))]);
        Ok(())
    }
}

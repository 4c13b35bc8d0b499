/* placeholder: replaced by the folder's first file */ extern int lorad_dataloader_placeholder; int lorad_dataloader_placeholder;

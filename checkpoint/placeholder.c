/* placeholder: replaced by the folder's first file */ extern int lorad_checkpoint_placeholder; int lorad_checkpoint_placeholder;

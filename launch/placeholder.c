/* placeholder: replaced by the folder's first file */ extern int lorad_launch_placeholder; int lorad_launch_placeholder;
